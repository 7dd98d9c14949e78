"""From a variant's configuration to its mechanisms."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from safe_train.configs.retention_variants import RetentionVariantConfig
from safe_train.retention.collectives import SINGLE_PROCESS, Collectives
from safe_train.retention.distillation import Distillation
from safe_train.retention.ewc import ElasticWeightConsolidation
from safe_train.retention.mechanism import CalibrationBatches, Mechanism, RetentionModel
from safe_train.retention.null_space import NullSpaceProjection
from safe_train.retention.replay import Replay
from safe_train.retention.settings import RetentionSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EffectiveRetention:
    """What a variant amounts to in a run: each coefficient once, thresholds fitted to the run's length.

    Attributes:
        kl_coefficient: multiplies the KL divergence.
        replay_coefficient: multiplies the cross-entropy of the protected rows' own answers.
        fisher_coefficient: multiplies the EWC penalty.
        fisher_step: step before which the Fisher diagonal is computed.
        null_space_min_samples: protected rows before the bases are first computed, and rows they are computed from.
        null_space_refresh_interval: protected rows between two computations.
    """

    kl_coefficient: float
    replay_coefficient: float
    fisher_coefficient: float
    fisher_step: int
    null_space_min_samples: int
    null_space_refresh_interval: int


def resolved_variant(variant: RetentionVariantConfig, settings: RetentionSettings) -> RetentionVariantConfig:
    """The variant with the run's own null-space settings in place of the registered ones."""
    return replace(
        variant,
        null_space_rank=settings.null_space_rank or variant.null_space_rank,
        null_space_min_samples=settings.null_space_min_samples or variant.null_space_min_samples,
        null_space_refresh_interval=settings.null_space_refresh_interval or variant.null_space_refresh_interval,
    )


def effective_retention(
    variant: RetentionVariantConfig, settings: RetentionSettings, *, max_steps: int, rows_per_step: int
) -> EffectiveRetention:
    """Fits the variant's thresholds to a run in which ``max_steps * rows_per_step`` protected rows go by.

    A run too short for the registered values would never compute or never refresh its bases; the first estimate then
    comes after a tenth of the rows at the latest, and a refresh after every quarter.
    """
    rows = max_steps * rows_per_step
    min_samples = min(variant.null_space_min_samples, max(rows_per_step, rows // 10))
    refresh = min(variant.null_space_refresh_interval, max(min_samples, rows // 4))
    for name, registered, fitted in (
        ("null_space_min_samples", variant.null_space_min_samples, min_samples),
        ("null_space_refresh_interval", variant.null_space_refresh_interval, refresh),
    ):
        if variant.enable_null_space and fitted != registered:
            logger.info("%s: %d instead of %d, since only %d protected rows go by", name, fitted, registered, rows)
    return EffectiveRetention(
        kl_coefficient=settings.retention_scale * variant.kl_coefficient,
        replay_coefficient=settings.retention_scale * variant.replay_coefficient,
        fisher_coefficient=settings.retention_scale * variant.fisher_coefficient,
        fisher_step=round(settings.fisher_start_ratio * max_steps),
        null_space_min_samples=min_samples,
        null_space_refresh_interval=refresh,
    )


def build_mechanisms(
    variant: RetentionVariantConfig,
    settings: RetentionSettings,
    effective: EffectiveRetention,
    *,
    model: RetentionModel,
    linears: Mapping[str, nn.Linear],
    batches: CalibrationBatches,
    optimizer: torch.optim.Optimizer,
    seed: int,
    collectives: Collectives = SINGLE_PROCESS,
) -> RetentionStack:
    """The mechanisms that the variant switches on, on the weights of ``linears``.

    Of several processes, each builds its own, and ``batches`` gives this process's share of the rows.
    """
    mechanisms: list[Mechanism] = []
    if effective.kl_coefficient > 0:
        mechanisms.append(
            Distillation(
                model.head,
                weight=effective.kl_coefficient,
                divergence=settings.divergence,
                temperature=settings.temperature,
                collectives=collectives,
            )
        )
    if effective.replay_coefficient > 0:
        mechanisms.append(Replay(model.head, weight=effective.replay_coefficient, collectives=collectives))
    if effective.fisher_coefficient > 0:
        mechanisms.append(
            ElasticWeightConsolidation(
                model,
                linears,
                batches,
                weight=effective.fisher_coefficient,
                calibrate_at=effective.fisher_step,
                num_samples=settings.fisher_samples,
                trace=settings.fisher_trace,
                labels=settings.fisher_labels,
                seed=seed,
                collectives=collectives,
            )
        )
    if variant.enable_null_space:
        mechanisms.append(
            NullSpaceProjection(
                model,
                linears,
                batches,
                optimizer,
                rank=variant.null_space_rank,
                min_samples=effective.null_space_min_samples,
                refresh_interval=effective.null_space_refresh_interval,
                subspace=settings.null_space_subspace,
                projects=settings.null_space_target,
                one_sided=settings.null_space_one_sided,
                energy=settings.null_space_energy,
                memory=None if settings.null_space_memory_gib is None else int(settings.null_space_memory_gib * 2**30),
                collectives=collectives,
            )
        )
    return RetentionStack(model, mechanisms, collectives)


class RetentionStack:
    """Mechanisms that act together; its hooks call theirs in order.

    Attributes:
        mechanisms: in the order in which they act.
    """

    def __init__(
        self, model: RetentionModel, mechanisms: Sequence[Mechanism], collectives: Collectives = SINGLE_PROCESS
    ) -> None:
        self.model = model
        self.mechanisms = list(mechanisms)
        self.collectives = collectives

    @property
    def adds_loss(self) -> bool:
        """Whether a loss on protected rows is to be computed at each step."""
        return any(mechanism.adds_loss for mechanism in self.mechanisms)

    def record_metrics(self, wanted: bool) -> None:
        """Says whether the observations of the coming steps will be asked for, as they are if nothing is said."""
        for mechanism in self.mechanisms:
            mechanism.records_metrics = wanted

    def loss(self, batch: Any) -> Tensor:
        """Sum of the mechanisms' weighted losses on a batch of protected rows."""
        needs_teacher = any(mechanism.needs_teacher for mechanism in self.mechanisms)
        # The teacher first: the student's pass may then leave out what the two have in common.
        teacher = self.model.teacher(batch) if needs_teacher else None
        student = self.model.student(batch)
        terms = [mechanism.loss(student, teacher) for mechanism in self.mechanisms]
        return torch.stack([term for term in terms if term is not None]).sum()

    def before_step(self, step: int, rows_seen: int) -> None:
        """See :class:`Mechanism`."""
        for mechanism in self.mechanisms:
            mechanism.before_step(step, rows_seen)

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
