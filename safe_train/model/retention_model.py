"""SAFE as a retention model: the student has audio attached, the teacher is the bypass of the same weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from safe_train.model.base import OutputHead
from safe_train.model.batch import Batch
from safe_train.model.safe_model import SafeModel
from safe_train.model.shared_prefix import SharedPrefix
from safe_train.retention import AnswerStates


class TeacherStates(Protocol):
    """A cache of the teacher's hidden states; see :class:`~safe_train.data.cache.teacher_states.TeacherCache`."""

    def states(self, rows: Sequence[Any]) -> Tensor:
        """States [N, H] of the answer tokens of the examples."""
        ...


class SafeRetentionModel:
    """A :class:`~safe_train.retention.RetentionModel` over batches of retention examples with audio attached.

    Student and teacher run the same operations up to the first fused layer. The teacher's results for them are reused
    by the student's pass on the same batch, if that comes next. With a cache of the teacher's states there is no
    teacher pass.
    """

    def __init__(self, model: SafeModel, teacher_cache: TeacherStates | None = None) -> None:
        self.model, self.teacher_cache = model, teacher_cache
        self.head: OutputHead = model.base.head
        self._shared: tuple[Batch, SharedPrefix | None] | None = None

    def student(self, batch: Batch) -> AnswerStates:
        """Answer states with the examples' audio attached."""
        shared, self._shared = self._shared, None
        prefix = shared[1] if shared is not None and shared[0] is batch else None
        hidden = self.model.last_hidden_state(batch.inputs, batch.features, prefix)
        return AnswerStates(hidden[batch.token_rows, batch.token_positions], batch.labels, batch.token_rows)

    @torch.no_grad()
    def teacher(self, batch: Batch) -> Tensor:
        """Hidden states of the same tokens in the bypass."""
        if self.teacher_cache is not None and batch.rows:  # a batch that was read from a file does not know its rows
            return self.teacher_cache.states(batch.rows)
        hidden, prefix = self.model.bypass_and_prefix(batch.inputs)
        self._shared = (batch, prefix)
        return hidden[batch.token_rows, batch.token_positions]
