"""An adapter that changes answers, figures of a run that never was, and rows as chats."""

from __future__ import annotations

import torch

from safe_train.config import build_config
from safe_train.data.rows import Row
from safe_train.experiment import attach, load_base_model
from safe_train.model import SafeModel

RETENTION = {
    "variant": "soft_retention", "seed": 3, "step": 7, "margin": 0.005, "base_accuracy": [0.9, 0.8, 1.0],
    "data": {"vl": "vqa", "audio": "audiocaps", "split": "val"}, "bypass_bit_equal": True,
    "vl": {"silence": {"rows": 24, "accuracy": [0.875, 0.75, 1.0], "difference": [-0.025, -0.05, 0.0], "kl": 0.125,
                       "non_inferior": False, "is_measurement": True}},
    "audio": {"matched": {"rows": 20, "accuracy": [0.5, 0.25, 0.75]}}, "audio_gain": {"silence": [0.25, 0.0, 0.5]},
}  # fmt: skip


def loud_model() -> SafeModel:
    """An untrained model whose fusion says something all the same."""
    config = build_config({}, {})
    model = attach(load_base_model(config), config)
    generator = torch.Generator().manual_seed(0)
    for fusion in model.fusions:
        torch.nn.init.normal_(fusion.output.weight, std=3.0, generator=generator)
    return model


def conversation(row: Row, *, audio: bool = True, answer: str | None = None) -> list[dict]:
    """The row as a chat."""
    content = [{"type": "image", "image": str(row.image)}] if row.image else []
    content += [{"type": "audio", "audio": str(row.audio)}] if audio and row.audio else []
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": row.question}]}]
    if answer is not None:
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return messages
