"""Replay: trains on the retention examples' own answers, with audio attached and without a teacher."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from safe_train.configs.retention_variants import RetentionVariantConfig
from safe_train.retention.collectives import SINGLE_PROCESS, Collectives
from safe_train.retention.mechanism import (
    AnswerStates,
    LogitHead,
    Mechanism,
    MetricInfo,
    RunLength,
    TrainingContext,
    negative_log_likelihood,
)
from safe_train.retention.settings import RetentionSettings


class Replay(Mechanism):
    """Adds ``weight * mean_t -log p(y_t)`` over the answer tokens t of the retention examples, y the data's answers.

    Only the data's answers are kept: where the base's answer differs from them, replay changes it.
    Method: rehearsal, Robins 1995, Connection Science 7(2).
    """

    name = "replay"
    adds_loss = True
    shown_metrics: ClassVar = (MetricInfo("replay_loss", "replay loss, nats"),)

    def __init__(self, head: LogitHead, *, weight: float, collectives: Collectives = SINGLE_PROCESS) -> None:
        self.head, self.weight, self.collectives = head, weight, collectives
        self._sum: Tensor | None = None
        self._tokens = 0

    @classmethod
    def resolve(
        cls, variant: RetentionVariantConfig, settings: RetentionSettings, length: RunLength
    ) -> dict[str, float | int]:
        """The coefficient of the cross-entropy."""
        return {"replay_coefficient": settings.retention_scale * variant.replay_coefficient}

    @classmethod
    def from_variant(
        cls, variant: RetentionVariantConfig, settings: RetentionSettings, context: TrainingContext
    ) -> Replay:
        """See :class:`Mechanism`."""
        weight = cls.resolve(variant, settings, context.length)["replay_coefficient"]
        return cls(context.model.head, weight=weight, collectives=context.collectives)

    @property
    def was_active(self) -> bool:
        """Whether a retention example was ever trained on."""
        return self._acted

    def before_step(self, step: int, examples_seen: int) -> None:
        """Begins a new mean."""
        self._sum, self._tokens = None, 0

    def loss(self, student: AnswerStates, teacher_hidden: Tensor | None) -> Tensor:
        """The weighted cross-entropy."""
        total, tokens = negative_log_likelihood(self.head, student), len(student.labels)
        part = total.detach().double()
        self._sum, self._tokens = part if self._sum is None else self._sum + part, self._tokens + tokens
        self._acted = True
        return self.weight * (total / max(1, tokens))

    def metrics(self) -> dict[str, float]:
        """The unweighted cross-entropy in nats per token, over the step's examples in all processes."""
        if self._sum is None:
            return {}
        return {"replay_loss": self.collectives.mean(self._sum.item() / max(1, self._tokens), self._tokens)}

    def state_dict(self) -> dict[str, Tensor]:
        """Whether a retention example was ever trained on."""
        return {"acted": torch.tensor(self._acted)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes up the state of ``state_dict``."""
        self._acted = bool(state["acted"])
