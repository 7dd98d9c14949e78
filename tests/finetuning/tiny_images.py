"""Tiny image-text models of real classes, and rows of messages with photographs, without, and with two."""

from __future__ import annotations

import copy
import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.model.families import FAMILIES

KINDS = ("llava", "qwen2_vl", "qwen2_5_vl", "smolvlm", "gemma3")
_TARGETS = {
    "decoder": r".*language_model.*\.(q_proj|v_proj)|.*text_model.*\.(q_proj|v_proj)",
    "everything": "all-linear",
    "tower": r".*vision.*\.(q_proj|v_proj)|.*visual.*\.qkv",
}


@functools.cache
def loaded(kind: str) -> tuple[Any, Any]:
    """The model, in float32, and its processor."""
    with tempfile.TemporaryDirectory() as folder:
        source = FAMILIES[kind].save(Path(folder) / "base")
        model = AutoModelForImageTextToText.from_pretrained(source, dtype=torch.float32)
        return model, AutoProcessor.from_pretrained(source)


def image_model(kind: str, targets: str = "decoder") -> Any:
    """The model with LoRA on its decoder, on every linear layer, or on the vision tower alone."""
    model = copy.deepcopy(loaded(kind)[0])
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_dropout=0.1, target_modules=_TARGETS[targets], exclude_modules="lm_head")
    return get_peft_model(model, config)


def picture(rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(rng.integers(0, 255, (60, 60, 3), dtype=np.uint8))


def image_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """In turn a question about an image, one without an image, and one about two."""
    rng, rows = np.random.default_rng(seed), []
    for number in range(count):
        images = [picture(rng) for _ in range((1, 0, 2)[number % 3])]
        words = rng.choice(["where", "is", "it", "there", "a", "red", "star"], size=3 + number % 4)
        answer = rng.choice(["top left", "yes", "no", "a red star"])
        messages = [
            {"role": "user", "content": " ".join(words) + "?"},
            {"role": "assistant", "content": str(answer)},
        ]
        rows.append({"messages": messages, "images": images})
    return rows
