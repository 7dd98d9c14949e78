"""SAFE as the retention mechanisms see it: the student hears, the teacher is the bypass of the same weights."""

from __future__ import annotations

import torch
from torch import Tensor

from safe_train.data.batch import Batch
from safe_train.model import SafeModel
from safe_train.model.base import OutputHead
from safe_train.retention import AnswerStates


class ProtectedSafeModel:
    """A :class:`~safe_train.retention.ProtectedModel` over batches of VL rows with audio attached."""

    def __init__(self, model: SafeModel) -> None:
        self.model = model
        self.head: OutputHead = model.base.head

    def student(self, batch: Batch) -> AnswerStates:
        """Answer states with the rows' audio attached."""
        hidden = self.model.last_hidden_state(batch.inputs, batch.features)
        return AnswerStates(hidden[batch.token_rows, batch.token_positions], batch.labels, batch.token_rows)

    @torch.no_grad()
    def teacher(self, batch: Batch) -> Tensor:
        """Hidden states of the same tokens in the bypass."""
        hidden = self.model.last_hidden_state(batch.inputs, None)
        return hidden[batch.token_rows, batch.token_positions]
