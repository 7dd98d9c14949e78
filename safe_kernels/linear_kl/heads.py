"""The frozen heads that turn hidden states into logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Heads(NamedTuple):
    """The frozen heads as given: [V, H] and [V] of the student, [V, H_t] and [V] of a teacher with its own."""

    weight: Tensor
    bias: Tensor | None
    teacher_weight: Tensor | None
    teacher_bias: Tensor | None

    def detached(self) -> Heads:
        """Without gradients."""
        return self._map(Tensor.detach)

    def to(self, dtype: torch.dtype) -> Heads:
        """In another dtype."""
        return self._map(lambda tensor: tensor.to(dtype))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Heads:
        others = (None if tensor is None else change(tensor) for tensor in self[1:])
        return Heads(change(self.weight), *others)

    def named(self) -> dict[str, Tensor]:
        """Those that are given, by the names of their arguments."""
        names = ("head_weight", "head_bias", "teacher_head_weight", "teacher_head_bias")
        return {name: tensor for name, tensor in zip(names, self, strict=True) if tensor is not None}


@dataclass(frozen=True)
class LinearHeads:
    """The frozen heads that turn hidden states into logits, and what happens to the logits.

    Attributes:
        weight: [V, H] head of the student, and of the teacher unless it has its own.
        bias: [V] or None.
        teacher_weight: [V, H_teacher] head of the teacher if it has its own, else None.
        teacher_bias: [V] or None; belongs to `teacher_weight`.
        softcap: logits become `softcap * tanh(logits / softcap)`; None leaves them.
        temperature: logits are divided by it after the cap.
    """

    weight: Tensor
    bias: Tensor | None
    teacher_weight: Tensor | None
    teacher_bias: Tensor | None
    softcap: float | None
    temperature: float
