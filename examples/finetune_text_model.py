"""Fine-tunes a text model with and without retention, and shows what is left of what it could do before.

    python examples/finetune_text_model.py
    python examples/finetune_text_model.py --model ID --old old.jsonl --new new.jsonl

The first command needs no network: it makes a tiny model, teaches it to reverse letters, and fine-tunes it to double
them. The second takes a causal language model of your own and two files with a ``prompt`` and an ``answer`` a line:
what it is to go on doing, and what it is to learn.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import random
import string
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)
from transformers.utils import logging as transformers_logging

from safe_train.huggingface import Retention, RetentionMixin

Pair = tuple[str, str]  # a prompt and its answer


class RetentiveTrainer(RetentionMixin, Trainer):
    """A Trainer that keeps what its protected rows show."""


@dataclass(frozen=True)
class Task:
    """A model, what it can do and what it is to learn.

    Attributes:
        model: before the fine-tuning.
        tokenizer: its own.
        protected: rows on which its answers are held.
        held_out: rows of the same kind that the fine-tuning never sees.
        new: rows to learn.
    """

    model: Any
    tokenizer: Any
    protected: list[Pair]
    held_out: list[Pair]
    new: list[Pair]


def encoded(tokenizer: Any, pairs: list[Pair]) -> list[dict[str, list[int]]]:
    """Token ids, with labels on the answers alone."""
    rows = []
    for prompt, answer in pairs:
        before = tokenizer(prompt, add_special_tokens=False).input_ids
        after = [*tokenizer(" " + answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        rows.append({"input_ids": before + after, "labels": [-100] * len(before) + after})
    return rows


def train(trainer: type[Trainer], task: Task, pairs: list[Pair], model: Any, *, steps: int, **options: Any) -> Any:
    """Trains a model on pairs and returns it."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=32, learning_rate=options.pop("rate"),
            lr_scheduler_type="cosine", warmup_steps=steps // 10, save_strategy="no", report_to=[], disable_tqdm=True,
            logging_strategy="no", use_cpu=not torch.cuda.is_available(), seed=0,
        )  # fmt: skip
        collator = DataCollatorForSeq2Seq(task.tokenizer)
        rows = encoded(task.tokenizer, pairs)
        trainer(model=model, args=arguments, train_dataset=rows, data_collator=collator, **options).train()  # type: ignore[arg-type]
    return model


@torch.no_grad()
def share_right(task: Task, model: Any, pairs: list[Pair]) -> float:
    """Share of rows whose every answer token the model finds most likely."""
    model.eval()
    right = 0
    for row in encoded(task.tokenizer, pairs):
        ids, labels = torch.tensor([row["input_ids"]], device=model.device), torch.tensor(row["labels"][1:])
        found = model(input_ids=ids).logits[0, :-1].argmax(dim=-1).cpu()
        right += bool(((found == labels) | (labels == -100)).all())
    return right / len(pairs)


def compare(task: Task, *, variant: str, steps: int) -> dict[str, tuple[float, float]]:
    """Shares of old and new rows that are right: before, after a plain fine-tuning, and after one with retention."""

    def measured(model: Any) -> tuple[float, float]:
        return share_right(task, model, task.held_out), share_right(task, model, task.new)

    def adapted() -> Any:
        torch.manual_seed(0)
        adapter = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
        return get_peft_model(copy.deepcopy(task.model), adapter)

    retention = Retention(encoded(task.tokenizer, task.protected), variant, rows_per_step=16)
    common: dict[str, Any] = {"steps": steps, "rate": 3e-3}
    return {
        "before": measured(task.model),
        "plain": measured(train(Trainer, task, task.new, adapted(), **common)),
        variant: measured(train(RetentiveTrainer, task, task.new, adapted(), retention=retention, **common)),
    }


def tiny_task() -> Task:
    """A Llama of 0.1 M parameters that has learned to reverse three letters, and is to learn to double them."""
    letters = string.ascii_lowercase[:8]
    words = {word: index for index, word in enumerate(["<pad>", "</s>", "reverse", "double", ":", *letters])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    triples = [(a, b, c) for a in letters for b in letters for c in letters]
    random.Random(0).shuffle(triples)
    old = [(f"reverse {a} {b} {c} :", f"{c} {b} {a}") for a, b, c in triples]
    new = [(f"double {a} {b} {c} :", f"{a} {a} {b} {b} {c} {c}") for a, b, c in triples[:200]]
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=32,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
        )
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")
    task = Task(model, fast, old[:300], old[400:], new)
    train(Trainer, task, old[:400], model, steps=300, rate=5e-3)
    return task


def own_task(model: str, old: Path, new: Path) -> Task:
    """A model of one's own; a fifth of the old rows is held out."""

    def pairs(path: Path) -> list[Pair]:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        return [(line["prompt"], line["answer"]) for line in lines]

    known, learned = pairs(old), pairs(new)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    loaded = AutoModelForCausalLM.from_pretrained(model, use_safetensors=True)
    return Task(loaded, tokenizer, known[len(known) // 5 :], known[: len(known) // 5], learned)


def main() -> None:
    """Prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="hub id or folder of a causal language model with safetensors weights")
    parser.add_argument("--old", type=Path, help="JSONL of what it is to go on doing")
    parser.add_argument("--new", type=Path, help="JSONL of what it is to learn")
    parser.add_argument("--variant", default="full_retention", help="retention variant")
    parser.add_argument("--steps", type=int, default=300, help="optimizer steps of the fine-tuning")
    given = parser.parse_args()
    if given.model and not (given.old and given.new):
        parser.error("--model needs --old and --new")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    transformers_logging.disable_progress_bar()
    try:
        task = own_task(given.model, given.old, given.new) if given.model else tiny_task()
    except (OSError, ValueError, KeyError) as error:
        parser.error(f"--model, --old, --new: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
    for name, (old, new) in compare(task, variant=given.variant, steps=given.steps).items():
        print(f"{name:20} old rows right {100 * old:5.1f} %   new rows right {100 * new:5.1f} %")


if __name__ == "__main__":
    main()
