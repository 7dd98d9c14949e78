"""An adapter that changes answers, figures of a run that never was, and rows as chats."""

from __future__ import annotations

from typing import Any

import torch

from safe_train.config import build_config
from safe_train.data.example import Example
from safe_train.io.fingerprints import tensors_sha256
from safe_train.model.safe_model import SafeModel
from safe_train.training.build import attach, load_base_model

RETENTION = {
    "variant": "soft_retention", "seed": 3, "step": 7, "margin": 0.005, "base_accuracy": [0.9, 0.8, 1.0],
    "data": {"vl": "vqa", "text": "text", "audio": "audiocaps", "split": "val"}, "bypass_bit_equal": True,
    "gate": 1.0, "precision": "fp32", "base_text_accuracy": [0.75, 0.5, 1.0], "base_bits_per_byte": [1.5, 1.25, 1.75],
    "meaning": {"not_retention": "", "not_text_retention": "", "not_hearing": "", "protected_text": True,
                "conditions": ["silence"], "unmeasured": ["distractor", "loud"]},
    "vl": {"silence": {"rows": 24, "accuracy": [0.875, 0.75, 1.0], "difference": [-0.025, -0.05, 0.0], "kl": 0.125,
                       "answer_change_rate": 0.0625, "non_inferior": False, "is_measurement": True}},
    "text": {"silence": {"rows": 16, "accuracy": [0.625, 0.5, 0.75], "difference": [-0.125, -0.25, 0.0], "kl": 0.25,
                         "answer_change_rate": 0.1875, "non_inferior": False, "is_measurement": True}},
    "documents": {"silence": {"rows": 8, "bits_per_byte": [1.625, 1.5, 1.75], "difference": [0.125, 0.0, 0.25],
                              "kl": 0.5, "is_measurement": True}},
    "audio_metric": "exact_match",
    "audio": {"matched": {"rows": 20, "accuracy": [0.999, 0.25, 1.0]}}, "audio_gain": {"silence": [0.25, 0.125, 0.5]},
}  # fmt: skip


def figures_of(model: SafeModel) -> dict[str, Any]:
    """The figures as an evaluation of this model's weights would give them."""
    return RETENTION | {"weights_sha256": tensors_sha256(model.trainable_parameters().items())}


def loud_model() -> SafeModel:
    """An untrained model whose fusion says something all the same."""
    config = build_config({}, {})
    model = attach(load_base_model(config), config)
    generator = torch.Generator().manual_seed(0)
    for fusion in model.fusions:
        torch.nn.init.normal_(fusion.output.weight, std=3.0, generator=generator)
    return model


def conversation(row: Example, *, audio: bool = True, answer: str | None = None) -> list[dict]:
    """The row as a chat."""
    content = [{"type": "image", "image": str(row.image)}] if row.image else []
    content += [{"type": "audio", "audio": str(row.audio)}] if audio and row.audio else []
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": row.question}]}]
    if answer is not None:
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return messages
