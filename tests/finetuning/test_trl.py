"""TRL's own trainers with retention: what is kept is plain conversations, which the trainer's tokenizer encodes."""

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback
from trl import (
    DistillationConfig,
    DistillationTrainer,
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    SFTConfig,
    SFTTrainer,
)

from safe_train.finetuning.chats import ChatCollator
from safe_train.finetuning.rows import RetentionBatch
from safe_train.huggingface import Retention, RetentionMixin
from safe_train.retention.settings import RetentionSettings
from tests.finetuning.tiny_images import image_model, image_rows, loaded
from tests.model.families.building import chat_template, text_config, tokenizer_with
from tests.tolerances import LEAKAGE

pytestmark = pytest.mark.slow
SETTINGS = RetentionSettings(null_space_min_samples=8, fisher_samples=8, null_space_refresh_interval=16)
STEPS = 4


def chat(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


PROTECTED = Dataset.from_list(
    [{"messages": chat(f"where is the {color} {shape}?", place)} for color, place in (("red", "top"), ("blue", "left"))
     for shape in ("star", "circle", "square", "ring")]
)  # fmt: skip
ASKED = [chat(f"what color is the {shape}?", color) for shape in ("star", "ring") for color in ("red", "green")] * 4


@pytest.fixture(scope="module")
def tokenizer():
    made = tokenizer_with("<|turn|>", "<|says|>", "<|end|>")
    start = "<|turn|>{{ role }}<|says|>"
    template = chat_template(start, "<|end|>", "", "<|turn|>assistant<|says|>")
    made.chat_template = template.replace("{% for part in message.content %}", "{{ message.content }}").replace(
        "{% if part.type == 'image' %}{% else %}{{ part.text }}{% endif %}{% endfor %}", ""
    )
    return made


def text_model(tokenizer, seed=0):
    torch.manual_seed(seed)
    options = text_config(tokenizer, "llama")
    options.pop("model_type")
    return LlamaForCausalLM(LlamaConfig(**options))


def adapted(tokenizer):
    torch.manual_seed(1)
    adapter = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    return get_peft_model(text_model(tokenizer), adapter)


class RetentiveSFT(RetentionMixin, SFTTrainer):
    """Supervised fine-tuning."""


class RetentiveDPO(RetentionMixin, DPOTrainer):
    """Preferences."""


class RetentiveGRPO(RetentionMixin, GRPOTrainer):
    """Rewards."""


class RetentiveDistillation(RetentionMixin, DistillationTrainer):
    """Another model's distributions."""


def rewarded(completions, **_options):
    """Longer is better."""
    return [float(len(completion[0]["content"])) for completion in completions]


COMMON = {
    "max_steps": STEPS, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "logging_steps": 1, "report_to": [],
    "save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "bf16": False, "seed": 3,
    "lr_scheduler_type": "constant",
}  # fmt: skip
PREFERENCES = [{"prompt": c[:1], "chosen": c[1:], "rejected": chat("", "no")[1:]} for c in ASKED]
PROMPTS = [{"prompt": c[:1]} for c in ASKED]
SAMPLED = {"num_generations": 4, "max_completion_length": 6, "generation_batch_size": 4}


def made(name, folder, tokenizer, retention):
    """A trainer of TRL on its own kind of rows."""
    kinds = {
        "SFT": (RetentiveSFT, SFTConfig, {}, [{"messages": c} for c in ASKED], {}),
        "SFT, packed": (
            RetentiveSFT, SFTConfig, {"packing": True, "max_length": 64}, [{"messages": c} for c in ASKED], {},
        ),
        "DPO": (RetentiveDPO, DPOConfig, {}, PREFERENCES, {}),
        "GRPO": (RetentiveGRPO, GRPOConfig, SAMPLED, PROMPTS, {"reward_funcs": rewarded}),
        "distillation": (
            RetentiveDistillation, DistillationConfig, {"max_completion_length": 6}, PROMPTS,
            {"teacher_model": text_model(tokenizer, seed=5)},
        ),
    }  # fmt: skip
    kind, config, options, data, more = kinds[name]
    return kind(
        model=adapted(tokenizer), args=config(output_dir=str(folder), **COMMON | options),
        train_dataset=Dataset.from_list(data), processing_class=tokenizer, retention=retention, **more,
    )  # fmt: skip


class EveryDivergence(TrainerCallback):
    """At each step the KL of the protected answers, by the whole models' logits."""

    def __init__(self, original, batch):
        self.original, self.batch, self.found = original.eval(), batch, []

    def on_step_begin(self, _args, _state, _control, model, **_options):
        was_training, batch = model.training, self.batch
        with torch.no_grad():
            old, new = (
                m(**batch.inputs).logits[batch.rows, batch.positions].double().log_softmax(-1)
                for m in (self.original, model.eval())
            )
        model.train(was_training)
        self.found.append(F.kl_div(new, old, reduction="batchmean", log_target=True).item())


@pytest.mark.parametrize("name", ["SFT", "SFT, packed", "DPO", "GRPO", "distillation"])
def test_a_trainer_of_trl_keeps_conversations(tmp_path, tokenizer, name):
    retention = Retention(PROTECTED, "full_retention", rows_per_step=len(PROTECTED), settings=SETTINGS)
    trainer = made(name, tmp_path, tokenizer, retention)
    batch = RetentionBatch.of(ChatCollator(tokenizer)(list(PROTECTED)), torch.device("cpu"))
    divergences = EveryDivergence(text_model(tokenizer), batch)
    trainer.add_callback(divergences)
    trainer.train()
    logged = [line["kl"] for line in trainer.state.log_history if "kl" in line]
    assert len(logged) == STEPS
    assert logged == pytest.approx(divergences.found, rel=2e-3, abs=1e-6)
    assert logged[0] < 1e-9 < logged[-1]
    assert trainer.retention.stack.inactive() == []
    assert trainer.retention.metrics()["null_space_leakage"] < LEAKAGE


def test_token_ids_are_kept_by_a_trainer_of_preferences(tmp_path, tokenizer):
    """Its collator takes preferences alone."""
    rows = [{"input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, 8]}, {"input_ids": [5, 9], "labels": [-100, 9]}] * 4
    trainer = made("DPO", tmp_path, tokenizer, Retention(rows, "soft_retention"))
    trainer.train()
    assert trainer.retention.stack.inactive() == []


def test_an_image_text_model_is_fine_tuned_by_trl(tmp_path):
    rows = [{**row, "images": row["images"][:1]} for row in image_rows(12, 1) if row["images"]]
    trainer = RetentiveSFT(
        model=image_model("llava"), args=SFTConfig(output_dir=str(tmp_path), max_length=None, **COMMON),
        train_dataset=Dataset.from_list(rows), processing_class=loaded("llava")[1],
        retention=Retention(image_rows(6, 2), settings=SETTINGS),
    )  # fmt: skip
    trainer.train()
    assert trainer.retention.stack.inactive() == []
    assert trainer.retention.metrics()["null_space_leakage"] < LEAKAGE
