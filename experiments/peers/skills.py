"""Six skills that a small language model has, and a seventh that it is to learn.

A row is a skill's name with four letters, and the letters that the skill makes of them: ``sort d a c b : a b c d``. The
model is trained on the six old skills until it can do letters that it has never seen. Some rows of three of them
are kept when the new skill is learned; of the other three there are none.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

Letters = tuple[int, ...]
Row = dict[str, list[int]]

NUM_LETTERS, LENGTH = 8, 4
PAD, END, COLON, FIRST_LETTER = 0, 1, 2, 3

OLD: Mapping[str, Callable[[Letters], Letters]] = {
    "reverse": lambda x: x[::-1],
    "sort": lambda x: tuple(sorted(x)),
    "rotate": lambda x: (*x[1:], x[0]),
    "next": lambda x: tuple((letter + 1) % NUM_LETTERS for letter in x),
    "swap": lambda x: (x[1], x[0], x[3], x[2]),
    "copy": lambda x: x,
}
PROTECTED, UNPROTECTED = ("reverse", "sort", "rotate"), ("next", "swap", "copy")
NEW = "double"

BASE_ROWS, NEW_ROWS, HELD_OUT = 2000, 200, 150
"""Rows a skill: the base is trained on, of the new skill, in validation and in test."""

_BASE_STEPS, _BASE_BATCH, _BASE_RATE = 1500, 96, 3e-3


def double(letters: Letters) -> Letters:
    """Every letter twice."""
    return tuple(letter for letter in letters for _ in range(2))


@dataclass(frozen=True)
class Task:
    """What is known, and what is to be learned.

    Attributes:
        model: before the fine-tuning.
        kept: rows of the protected skills that the fine-tuning may see.
        new: rows of the new skill.
        held_out: for ``validation`` and ``test``, rows by skill that neither model nor fine-tuning has seen.
    """

    model: LlamaForCausalLM
    kept: list[Row]
    new: list[Row]
    held_out: Mapping[str, Mapping[str, list[Row]]]


def build_task(seed: int, kept: int) -> Task:
    """A base of its own for every seed: letters, rows and weights are drawn by it; so many rows a skill are kept."""
    letters = list(itertools.product(range(NUM_LETTERS), repeat=LENGTH))
    random.Random(seed).shuffle(letters)
    known, rest = letters[:BASE_ROWS], letters[BASE_ROWS:]
    parts = {"validation": rest[:HELD_OUT], "test": rest[HELD_OUT : 2 * HELD_OUT]}
    return Task(
        model=_train_base([_row(skill, x) for skill in OLD for x in known], seed),
        kept=[_row(skill, x) for skill in PROTECTED for x in known[:kept]],
        new=[_row(NEW, x) for x in rest[2 * HELD_OUT : 2 * HELD_OUT + NEW_ROWS]],
        held_out={
            part: {skill: [_row(skill, x) for x in of_part] for skill in (*OLD, NEW)} for part, of_part in parts.items()
        },
    )


def collate(rows: Sequence[Row]) -> dict[str, Tensor]:
    """Pads on the right."""
    length = max(len(row["input_ids"]) for row in rows)

    def padded(name: str, value: int) -> Tensor:
        return torch.tensor([row[name] + [value] * (length - len(row[name])) for row in rows])

    ids, labels = padded("input_ids", PAD), padded("labels", -100)
    return {"input_ids": ids, "labels": labels, "attention_mask": (ids != PAD).long()}


@torch.no_grad()
def share_right(model: Any, rows: Sequence[Row]) -> float:
    """Share of rows of which every answer token is the most likely one behind those before it."""
    model.eval()
    batch = collate(rows)
    found = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1].argmax(dim=-1)
    labels = batch["labels"][:, 1:]
    return ((found == labels) | (labels == -100)).all(dim=1).double().mean().item()


def _row(skill: str, letters: Letters) -> Row:
    made = double(letters) if skill == NEW else OLD[skill](letters)
    name = FIRST_LETTER + NUM_LETTERS + [*OLD, NEW].index(skill)
    prompt = [name, *(FIRST_LETTER + letter for letter in letters), COLON]
    answer = [*(FIRST_LETTER + letter for letter in made), END]
    return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}


def _train_base(rows: list[Row], seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=FIRST_LETTER + NUM_LETTERS + len(OLD) + 1,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=32,
            pad_token_id=PAD,
            eos_token_id=END,
            bos_token_id=None,
            tie_word_embeddings=False,
        )
    )
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_BASE_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _BASE_RATE, total_steps=_BASE_STEPS)
    for _ in range(_BASE_STEPS):
        chosen = torch.randint(len(rows), (_BASE_BATCH,), generator=order).tolist()
        loss = model(**collate([rows[index] for index in chosen])).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()
