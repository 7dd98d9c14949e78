"""A tiny text model, rows of random tokens, and a trainer's arguments for a few steps on a CPU."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from peft import (
    IA3Config,
    LoHaConfig,
    LoraConfig,
    OFTConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from safe_train.configs.retention_variants import RetentionVariantConfig
from safe_train.huggingface import Retention, RetentionMixin
from safe_train.retention.settings import RetentionSettings

VOCABULARY = 40
SETTINGS = RetentionSettings(null_space_min_samples=16, fisher_samples=16, null_space_refresh_interval=24)


class RetentiveTrainer(RetentionMixin, Trainer):
    """The three lines of the documentation."""


def rows(count: int, seed: int) -> list[dict[str, list[int]]]:
    """Rows of five to eight random tokens, of which the first two are a prompt without a label."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(5, 9, (count,), generator=generator).tolist()
    tokens = [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]
    return [{"input_ids": row, "labels": [-100, -100, *row[2:]]} for row in tokens]


def collate(batch: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Pads on the right."""
    length = max(len(row["input_ids"]) for row in batch)

    def padded(name: str, value: int) -> torch.Tensor:
        return torch.tensor([row[name] + [value] * (length - len(row[name])) for row in batch])

    mask = [[1] * len(row["input_ids"]) + [0] * (length - len(row["input_ids"])) for row in batch]
    return {"input_ids": padded("input_ids", 0), "labels": padded("labels", -100), "attention_mask": torch.tensor(mask)}


_PRISTINE: list[LlamaForCausalLM] = []


def text_model(*, adapter: bool, biases: bool = False) -> Any:
    """A random Llama with a frozen head, or with LoRA on its attention; the same weights at every call."""
    if biases:
        torch.manual_seed(0)
        config = copy.deepcopy(text_model(adapter=False).config)
        config.attention_bias = True
        return LlamaForCausalLM(config).requires_grad_(False)
    if not _PRISTINE:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, attention_dropout=0.0, initializer_range=0.2, tie_word_embeddings=False,
        )  # fmt: skip
        _PRISTINE.append(LlamaForCausalLM(config))
    model = copy.deepcopy(_PRISTINE[0])
    if not adapter:
        model.get_output_embeddings().requires_grad_(False)
        return model
    torch.manual_seed(1)
    targets = ["q_proj", "v_proj", "down_proj"]
    return get_peft_model(model, LoraConfig(r=4, lora_dropout=0.1, target_modules=targets, task_type="CAUSAL_LM"))


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    """Twelve steps of two micro-batches, clipped."""
    defaults = {
        "max_steps": 12, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "learning_rate": 5e-3,
        "max_grad_norm": 0.5, "lr_scheduler_type": "constant", "weight_decay": 0.01, "logging_steps": 1, "seed": 3,
        "save_strategy": "no", "report_to": [], "use_cpu": True, "disable_tqdm": True, "optim": "adamw_torch",
    }  # fmt: skip
    return TrainingArguments(output_dir=str(folder), **defaults | options)


def retentive(folder: Path, model: Any, retention: Retention, **options: Any) -> RetentiveTrainer:
    """A trainer on 64 rows."""
    return RetentiveTrainer(
        model=model, args=arguments(folder, **options), train_dataset=rows(64, 1), data_collator=collate,
        retention=retention,
    )  # fmt: skip


def trained_weights(model: Any) -> dict[str, torch.Tensor]:
    """Copies of what is trained."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


PROTECTED = rows(24, 2)
"""Retention examples."""

NULL_SPACE_ALONE = RetentionVariantConfig(
    name="alone", description="", retention_loss_weight=0.0, distillation_weight=0.0, fisher_weight=0.0,
    enable_null_space=True,
)  # fmt: skip

OTHER_ADAPTERS = {
    "IA3": lambda: IA3Config(target_modules=["q_proj", "v_proj"], feedforward_modules=[]),
    "OFT": lambda: OFTConfig(oft_block_size=4, target_modules=["q_proj"]),
    "LoHa": lambda: LoHaConfig(r=4, target_modules=["q_proj"]),
    "prompt tuning": lambda: PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    "prefix tuning": lambda: PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    "P-tuning": lambda: PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, encoder_hidden_size=16),
}
"""Adapters without linear layers of their own."""

BEGINNINGS = {
    name: lambda name=name: LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=name)
    for name in ("gaussian", "pissa", "olora", "orthogonal")
} | {"DoRA": lambda: LoraConfig(r=4, target_modules=["q_proj", "v_proj"], use_dora=True)}
"""Ways in which LoRA begins; the second and third change the weights below it."""


def with_trained_norms() -> Any:
    """With LoRA, and normalizations trained beside it."""
    model = text_model(adapter=True)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.requires_grad_(True)
    return model
