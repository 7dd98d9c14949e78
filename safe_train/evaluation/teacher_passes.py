"""Keeps the teacher's pass of each batch over the conditions: the bypass does not depend on the audio."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from safe_train.model.batch import Batch
from safe_train.model.retention_model import SafeRetentionModel
from safe_train.model.safe_model import SafeModel
from safe_train.model.shared_prefix import SharedPrefix

MAX_BYTES = 2 * 2**30
"""Of host memory; batches beyond it are computed again under each condition."""

_PLAIN = (Tensor, bool, int, float, str, type(None))


class KeptTeacher(SafeRetentionModel):
    """A retention model whose teacher computes each batch of examples once, up to a size in all.

    An evaluation asks for the same batches under each condition. What is kept are the states of the answer tokens, and
    what the student's pass need not compute again: the image, and the layers below the first fused one. Later passes
    give the same bits. It lies in host memory, and is handed out as copies, which a forward pass may write into.
    """

    def __init__(self, model: SafeModel, max_bytes: int = MAX_BYTES) -> None:
        super().__init__(model)
        self._kept: dict[tuple[str, ...], tuple[Tensor, SharedPrefix | None]] = {}
        self._bytes_left = max_bytes

    @torch.no_grad()
    def teacher(self, batch: Batch) -> Tensor:
        """Hidden states of the answer tokens in the bypass; a batch of the same examples has the same."""
        key = tuple(example.row_id for example in batch.rows)
        if key in self._kept:
            states, prefix = self._kept[key]
            self._shared = (batch, prefix and prefix.map_tensors(self._copy_back))
            return self._copy_back(states)
        states = super().teacher(batch)
        prefix = self._shared[1] if self._shared is not None else None
        leaves = [states] if prefix is None else [states, *prefix.leaves()]
        size = _num_bytes(leaves)
        if key and size <= self._bytes_left and all(isinstance(leaf, _PLAIN) for leaf in leaves):
            self._bytes_left -= size
            self._kept[key] = (_copy_out(states), prefix and prefix.map_tensors(_copy_out))
        return states

    def _copy_back(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.model.base.model.device, copy=True)


def _copy_out(tensor: Tensor) -> Tensor:
    return tensor.to("cpu", copy=True)


def _num_bytes(leaves: Iterable[Any]) -> int:
    return sum(leaf.numel() * leaf.element_size() for leaf in leaves if isinstance(leaf, Tensor))
