"""Builds a variant's mechanisms and runs them together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from safe_train.configs.retention_variants import RetentionVariantConfig
from safe_train.retention.collectives import SINGLE_PROCESS, Collectives
from safe_train.retention.mechanism import Mechanism, RetentionModel, RunLength, TrainingContext
from safe_train.retention.registry import MECHANISMS, enabled_mechanisms
from safe_train.retention.settings import RetentionSettings


def resolve_variant(variant: RetentionVariantConfig, settings: RetentionSettings) -> RetentionVariantConfig:
    """The variant with the run's own null-space settings in place of the registered ones."""
    return replace(
        variant,
        null_space_rank=settings.null_space_rank or variant.null_space_rank,
        null_space_min_samples=settings.null_space_min_samples or variant.null_space_min_samples,
        null_space_refresh_interval=settings.null_space_refresh_interval or variant.null_space_refresh_interval,
    )


def resolve_retention(
    variant: RetentionVariantConfig, settings: RetentionSettings, length: RunLength
) -> dict[str, float | int]:
    """What the variant amounts to in a training of this length: see :meth:`Mechanism.resolve` of each mechanism."""
    return {
        name: value
        for mechanism in MECHANISMS.values()
        for name, value in mechanism.resolve(variant, settings, length).items()
    }


def build_mechanisms(
    variant: RetentionVariantConfig, settings: RetentionSettings, context: TrainingContext
) -> RetentionStack:
    """The mechanisms that the variant switches on.

    With several processes, each builds its own, and ``context.batches`` returns this process's shard of the examples.

    Raises:
        ValueError: the variant names a mechanism that is not registered, or a setting does not fit the optimizer.
    """
    mechanisms = [kind.from_variant(variant, settings, context) for kind in enabled_mechanisms(variant)]
    return RetentionStack(context.model, mechanisms, context.collectives)


class RetentionStack:
    """Mechanisms that run together; each hook calls theirs in order.

    Attributes:
        mechanisms: in the order in which they run.
    """

    def __init__(
        self, model: RetentionModel, mechanisms: Sequence[Mechanism], collectives: Collectives = SINGLE_PROCESS
    ) -> None:
        self.model = model
        self.mechanisms = list(mechanisms)
        self.collectives = collectives

    @property
    def adds_loss(self) -> bool:
        """Whether a loss on retention examples is to be computed at each step."""
        return any(mechanism.adds_loss for mechanism in self.mechanisms)

    def record_metrics(self, wanted: bool) -> None:
        """Sets whether :meth:`metrics` will be called for the coming steps; by default it is."""
        for mechanism in self.mechanisms:
            mechanism.records_metrics = wanted

    def loss(self, batch: Any) -> Tensor:
        """Sum of the mechanisms' weighted losses on a batch of retention examples."""
        needs_teacher = any(mechanism.needs_teacher for mechanism in self.mechanisms)
        # The teacher first: the student's pass may then leave out what the two have in common.
        teacher = self.model.teacher(batch) if needs_teacher else None
        student = self.model.student(batch)
        terms = [mechanism.loss(student, teacher) for mechanism in self.mechanisms]
        return torch.stack([term for term in terms if term is not None]).sum()

    def before_step(self, step: int, examples_seen: int) -> None:
        """See :class:`Mechanism`."""
        for mechanism in self.mechanisms:
            mechanism.before_step(step, examples_seen)

    def after_task_backward(self) -> None:
        """See :class:`Mechanism`."""
        for mechanism in self.mechanisms:
            mechanism.after_task_backward()

    def after_retention_backward(self) -> None:
        """See :class:`Mechanism`."""
        for mechanism in self.mechanisms:
            mechanism.after_retention_backward()

    def before_optimizer_step(self, clip_coefficient: float) -> None:
        """See :class:`Mechanism`."""
        for mechanism in self.mechanisms:
            mechanism.before_optimizer_step(clip_coefficient)

    def after_optimizer_step(self) -> None:
        """See :class:`Mechanism`."""
        for mechanism in self.mechanisms:
            mechanism.after_optimizer_step()

    def metrics(self) -> dict[str, float]:
        """What all mechanisms did in the last step."""
        return {key: value for mechanism in self.mechanisms for key, value in mechanism.metrics().items()}

    def inactive(self) -> list[str]:
        """Names of the mechanisms that are on and have had no effect so far in any process."""
        acted = [self.collectives.any(mechanism.was_active) for mechanism in self.mechanisms]
        return [mechanism.name for mechanism, did in zip(self.mechanisms, acted, strict=True) if not did]

    def state_dict(self) -> dict[str, Tensor]:
        """All mechanisms' tensors, prefixed by the mechanism's name."""
        return {f"{m.name}/{key}": value for m in self.mechanisms for key, value in m.state_dict().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes up the state of ``state_dict``."""
        for mechanism in self.mechanisms:
            prefix = f"{mechanism.name}/"
            own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            mechanism.load_state_dict(own)
