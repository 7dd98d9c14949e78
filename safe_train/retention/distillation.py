"""Distillation from the bypass: the KL divergence of the student, with audio attached, from its own base."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from safe_kernels import linear_kl_divergence
from safe_train.configs.retention_variants import RetentionVariantConfig
from safe_train.retention.collectives import SINGLE_PROCESS, Collectives
from safe_train.retention.mechanism import AnswerStates, LogitHead, Mechanism, MetricInfo, RunLength, TrainingContext
from safe_train.retention.settings import RetentionSettings


class Distillation(Mechanism):
    """Adds ``weight * mean_t KL(teacher_t || student_t)`` over the answer tokens t of the retention examples.

    Prompt and padding are not included: the states are gathered at the answer positions before the divergence is taken.
    Method: Hinton et al. 2015, arXiv:1503.02531; Li and Hoiem 2016, arXiv:1606.09282.
    """

    name = "KL"
    adds_loss = True
    needs_teacher = True
    shown_metrics: ClassVar = (MetricInfo("kl", "KL on retention examples, nats", in_progress=True),)

    def __init__(
        self,
        head: LogitHead,
        *,
        weight: float,
        divergence: Literal["forward", "reverse", "jsd"] = "forward",
        temperature: float = 1.0,
        collectives: Collectives = SINGLE_PROCESS,
    ) -> None:
        self.head, self.weight, self.temperature, self.collectives = head, weight, temperature, collectives
        self.divergence: Literal["forward", "reverse", "jsd"] = divergence
        self._sum: Tensor | None = None
        self._tokens = 0
        self._largest: Tensor | None = None

    @classmethod
    def resolve(
        cls, variant: RetentionVariantConfig, settings: RetentionSettings, length: RunLength
    ) -> dict[str, float | int]:
        """The coefficient of the divergence."""
        return {"kl_coefficient": settings.retention_scale * variant.kl_coefficient}

    @classmethod
    def from_variant(
        cls, variant: RetentionVariantConfig, settings: RetentionSettings, context: TrainingContext
    ) -> Distillation:
        """See :class:`Mechanism`."""
        return cls(
            context.model.head,
            weight=cls.resolve(variant, settings, context.length)["kl_coefficient"],
            divergence=settings.divergence,
            temperature=settings.temperature,
            collectives=context.collectives,
        )

    @property
    def was_active(self) -> bool:
        """Whether the divergence was ever above zero."""
        return self._acted or (self._largest is not None and self._largest.item() > 0.0)

    def before_step(self, step: int, examples_seen: int) -> None:
        """Begins a new mean."""
        self._sum, self._tokens = None, 0

    def loss(self, student: AnswerStates, teacher_hidden: Tensor | None) -> Tensor:
        """The weighted divergence."""
        if teacher_hidden is None:
            raise ValueError("teacher_hidden must be given: the divergence is taken from the teacher")
        value = linear_kl_divergence(
            student.hidden,
            teacher_hidden,
            self.head.weight,
            head_bias=self.head.bias,
            logit_softcap=self.head.logit_softcap,
            temperature=self.temperature,
            divergence=self.divergence,
        )
        found, tokens = value.detach(), len(student.labels)
        part = found.double() * tokens
        self._sum, self._tokens = part if self._sum is None else self._sum + part, self._tokens + tokens
        self._largest = found if self._largest is None else self._largest.maximum(found)
        return self.weight * value

    def metrics(self) -> dict[str, float]:
        """The unweighted divergence in nats per token, over the step's examples in all processes."""
        if self._sum is None:
            return {}
        return {"kl": self.collectives.mean(self._sum.item() / max(1, self._tokens), self._tokens)}

    def state_dict(self) -> dict[str, Tensor]:
        """Whether the divergence was ever above zero."""
        return {"acted": torch.tensor(self.was_active)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes up the state of ``state_dict``."""
        self._acted = bool(state["acted"])
