"""Null-space projection: moves the weights only in directions that the retention answers do not depend on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from safe_kernels import Basis, ProjectionPlan
from safe_train.configs.retention_variants import RetentionVariantConfig
from safe_train.retention.collectives import SINGLE_PROCESS, Collectives
from safe_train.retention.mechanism import (
    Calibration,
    CalibrationBatches,
    Mechanism,
    MetricInfo,
    RetentionModel,
    RunLength,
    TrainingContext,
    gradient_of,
)
from safe_train.retention.settings import RetentionSettings
from safe_train.retention.subspace import activation_subspace, gradient_subspace
from safe_train.retention.task_update import MULTI, TaskUpdate, splits_by_task

logger = logging.getLogger(__name__)

_TINY = 1e-30

Projected = Literal["task_gradient", "total_gradient", "task_update", "update"]


class NullSpaceProjection(Mechanism):
    """Keeps gradients or updates out of a protected subspace U: ``X <- X - (X U) U^T``.

    What is projected is a separate choice:

    - ``task_gradient``: the task loss's gradient, before the retention losses add theirs.
    - ``total_gradient``: the gradient of the total loss. It also removes the effect of the retention losses.
    - ``update``: what the optimizer did, ``theta_new - theta_old``, weight decay included.
    - ``task_update``: the part of the update that comes from the task loss (see ``TaskUpdate``).

    After a projected *gradient*, AdamW's step still enters U, since the division by sqrt(v) changes directions; the two
    projections of the update do not. One-sided projection removes only what raises the retention loss.

    A step whose metrics are not recorded (see ``Mechanism.records_metrics``) never waits for a GPU, and starts as many
    operations for a thousand tensors as for one.
    """

    name = "null space"
    needs_linears = True
    shown_metrics: ClassVar = (
        MetricInfo("null_space_energy", "gradient energy captured", is_ratio=True),
        MetricInfo("null_space_removed", "share of the update removed", is_ratio=True, in_progress=True),
        MetricInfo("null_space_leakage", "share left inside (leakage)"),
    )

    def __init__(
        self,
        model: RetentionModel,
        linears: Mapping[str, nn.Linear],
        batches: CalibrationBatches,
        optimizer: torch.optim.Optimizer,
        *,
        rank: int,
        min_samples: int,
        refresh_interval: int,
        subspace: Literal["gradient", "activation"] = "gradient",
        projects: Projected = "task_update",
        one_sided: bool = True,
        energy: float | None = None,
        memory: int | None = None,
        collectives: Collectives = SINGLE_PROCESS,
    ) -> None:
        """Registers the mechanism on the weights of ``linears``, which ``optimizer`` must train.

        ``memory`` is in bytes, for the captures of the gradient subspace (see ``gradient_subspace``).

        Raises:
            ValueError: one-sided projection of an activation subspace, whose vectors carry no sign; or ``task_update``
                with another optimizer than AdamW.
        """
        if one_sided and subspace == "activation":
            raise ValueError("one_sided: expected the gradient subspace, got activation, whose vectors carry no sign")
        if projects == "task_update" and not splits_by_task(optimizer):
            raise ValueError(
                "projects='task_update': expected torch.optim.AdamW without amsgrad or maximize, "
                f"got {type(optimizer).__name__}; choose projects='update'"
            )
        self.model, self.linears, self.batches, self.optimizer = model, dict(linears), batches, optimizer
        self.rank, self.min_samples, self.refresh_interval = rank, min_samples, refresh_interval
        self.subspace, self.projects, self.one_sided, self.energy = subspace, projects, one_sided, energy
        self.memory = memory
        self.collectives = collectives
        self.bases: dict[str, Basis] = {}
        self.computed_at = -1
        self._parameters: list[Tensor] = [module.weight for module in self.linears.values()]
        self._share = TaskUpdate(optimizer, self._parameters)
        self._before: list[Tensor] = []
        self._plan: ProjectionPlan | None = None
        self._last: dict[str, Tensor] = {}

    @classmethod
    def resolve(
        cls, variant: RetentionVariantConfig, settings: RetentionSettings, length: RunLength
    ) -> dict[str, float | int]:
        """Examples before the bases are first computed, and between two computations, fitted to the training's length.

        A training too short for the registered values would never compute or never refresh its bases: the first
        estimate comes after a tenth of the examples at the latest, and a refresh after every quarter.
        """
        examples = length.num_examples
        min_samples = min(variant.null_space_min_samples, max(length.examples_per_step, examples // 10))
        refresh_interval = min(variant.null_space_refresh_interval, max(min_samples, examples // 4))
        return {"null_space_min_samples": min_samples, "null_space_refresh_interval": refresh_interval}

    @classmethod
    def from_variant(
        cls, variant: RetentionVariantConfig, settings: RetentionSettings, context: TrainingContext
    ) -> NullSpaceProjection:
        """See :class:`Mechanism`."""
        resolved = cls.resolve(variant, settings, context.length)
        for name, fitted in resolved.items():
            if fitted != (registered := getattr(variant, name)):
                examples = context.length.num_examples
                logger.info(
                    "%s: %d instead of %d, since only %d retention examples go by", name, fitted, registered, examples
                )
        memory = settings.null_space_memory_gib
        return cls(
            context.model,
            context.linears,
            context.batches,
            context.optimizer,
            rank=variant.null_space_rank,
            min_samples=int(resolved["null_space_min_samples"]),
            refresh_interval=int(resolved["null_space_refresh_interval"]),
            subspace=settings.null_space_subspace,
            projects=settings.null_space_target,
            one_sided=settings.null_space_one_sided,
            energy=settings.null_space_energy,
            memory=None if memory is None else int(memory * 2**30),
            collectives=context.collectives,
        )

    def calibration(self, length: RunLength) -> Calibration:
        """The bases, once there are enough examples and after every refresh interval."""
        refreshes = max(0, length.num_examples - 1 - self.min_samples) // self.refresh_interval
        count = 1 + refreshes if length.num_examples > self.min_samples else 0
        return Calibration(self.min_samples, count, keeps_captures=self.subspace == "gradient")

    def calibrated(self) -> list[Tensor]:
        """The bases."""
        return [basis.vectors for basis in self.bases.values()]

    def before_step(self, step: int, examples_seen: int) -> None:
        """Computes the bases when enough retention examples have gone by, and again after every refresh interval."""
        due = self.min_samples if self.computed_at < 0 else self.computed_at + self.refresh_interval
        if not self.calibrates or examples_seen < due:
            return
        self.calibrate()
        self.computed_at = examples_seen
        energies = [basis.captured_energy for basis in self.bases.values()]
        if not energies:
            logger.warning(
                "null space at step %d: no retention example uses a trained layer; nothing is projected", step
            )
            return
        logger.info("null space at step %d: captured energy %.2f to %.2f", step, min(energies), max(energies))

    def calibrate(self, batches: CalibrationBatches | None = None) -> None:
        """Estimates the subspaces at the present weights."""
        self._plan = None
        batches = batches or self.batches
        if self.subspace == "gradient":
            bases = gradient_subspace(
                self.model,
                self.linears,
                batches,
                num_samples=self.min_samples,
                rank=self.rank,
                energy=self.energy,
                memory=self.memory,
                collectives=self.collectives,
            )
        else:
            bases = activation_subspace(
                self.model,
                self.linears,
                batches(self.min_samples),
                rank=self.rank,
                energy=self.energy,
                collectives=self.collectives,
            )
        # In the layout in which they are stored: another one gives other last bits, and a resumed run has the stored.
        self.bases = {
            name: replace(basis, vectors=basis.vectors.contiguous()) for name, basis in bases.items() if basis.rank > 0
        }

    def after_task_backward(self) -> None:
        """Projects the task loss's gradient, or stores it for the split of the update."""
        gradients = [gradient_of(parameter) for parameter in self._parameters]
        if self.projects == "task_gradient":
            self._project_gradients(gradients)
        elif self.projects == "task_update":
            self._share.take_gradients(gradients)

    def after_retention_backward(self) -> None:
        """Projects the total gradient."""
        if self.projects == "total_gradient":
            self._project_gradients([gradient_of(parameter) for parameter in self._parameters])

    @torch.no_grad()
    def before_optimizer_step(self, clip_coefficient: float) -> None:
        """Stores the weights, and updates the task loss's first moment."""
        if self.projects == "task_update":
            self._share.before_optimizer_step(clip_coefficient, wants_part=bool(self.bases))
        elif self.projects == "update" and self.bases:
            self._before = list(MULTI._foreach_mul(self._protected(self._parameters), 1.0))  # a copy, in one operation

    @torch.no_grad()
    def after_optimizer_step(self) -> None:
        """Projects the update, or the task loss's part of it."""
        if not self.bases or self.projects not in ("update", "task_update"):
            return
        parameters = self._protected(self._parameters)
        if self.projects == "update":  # in the place of the weights
            MULTI._foreach_sub_(parameters, self._before)
            self._project(parameters)
            MULTI._foreach_add_(parameters, self._before)
            self._before = []
        else:
            parts = self._protected(self._share.take_part())
            MULTI._foreach_sub_(parameters, parts)
            self._project(parts)
            MULTI._foreach_add_(parameters, parts)

    def _protected(self, tensors: list[Tensor]) -> list[Tensor]:
        """Of one tensor for each layer, those of the layers that have a basis."""
        return [tensor for name, tensor in zip(self.linears, tensors, strict=True) if name in self.bases]

    @torch.no_grad()
    def _project_gradients(self, gradients: list[Tensor]) -> None:
        """Projects gradients, which updates run against: what points along the negative gradient counts."""
        if not self.bases:
            return
        chosen = self._protected(gradients)
        if self.one_sided:
            MULTI._foreach_neg_(chosen)
        self._project(chosen)
        if self.one_sided:
            MULTI._foreach_neg_(chosen)

    def _project(self, tensors: list[Tensor]) -> None:
        """Projects, in place, one tensor for each layer that has a basis."""
        before = self._norms(tensors) if self.records_metrics else None
        if self._plan is None:
            self._plan = ProjectionPlan(self._protected(self._parameters), self._vectors(), one_sided=self.one_sided)
        self._plan(tensors)
        self._acted = True
        self._last = {}
        if before is not None:
            after = self._norms(tensors)
            self._last["null_space_removed"] = before[1] / before[0].clamp_min(_TINY)
            self._last["null_space_leakage"] = after[1] / after[0].clamp_min(_TINY)

    def _vectors(self) -> list[Tensor]:
        return [self.bases[name].vectors for name in self.linears if name in self.bases]

    def _norms(self, tensors: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Norms of all tensors together, and of their parts inside the subspaces: that of the coefficients."""
        pairs = zip(tensors, self._vectors(), strict=True)
        inside = [_coefficients(tensor, basis, self.one_sided) for tensor, basis in pairs]
        return _norm(tensors), _norm(inside)

    def metrics(self) -> dict[str, float]:
        """Share of the projected norm that was removed, share left inside, and the bases' captured energy."""
        if not self.bases:
            return {}
        energy = sum(basis.captured_energy for basis in self.bases.values()) / len(self.bases)
        return {name: value.item() for name, value in self._last.items()} | {"null_space_energy": energy}

    def state_dict(self) -> dict[str, Tensor]:
        """Bases, the task loss's first moments and the example count of the last estimate."""
        state = {f"moment.{name}": moment for name, moment in zip(self.linears, self._share.moments, strict=False)}
        for name, basis in self.bases.items():
            state[f"vectors.{name}"] = basis.vectors
            state[f"singular_values.{name}"] = basis.singular_values
            state[f"energy.{name}"] = torch.tensor(basis.captured_energy, dtype=torch.float64)
        return state | {"computed_at": torch.tensor(self.computed_at)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes up the state of ``state_dict``."""
        self._share.moments = [state[f"moment.{n}"].clone() for n in self.linears if f"moment.{n}" in state]
        self.bases = {
            name: Basis(state[f"vectors.{name}"], state[f"energy.{name}"].item(), state[f"singular_values.{name}"])
            for name in self.linears
            if f"vectors.{name}" in state
        }
        self._plan = None
        self.computed_at = int(state["computed_at"])
        self._acted = bool(self.bases)


def _coefficients(tensor: Tensor, basis: Tensor, one_sided: bool) -> Tensor:
    flat = tensor.reshape(-1, basis.shape[0]).to(basis.dtype) @ basis
    return flat.clamp_min(0.0) if one_sided else flat


def _norm(tensors: list[Tensor]) -> Tensor:
    """Norm of all tensors as one vector."""
    dtype = torch.promote_types(tensors[0].dtype, torch.float32)
    return torch.stack(MULTI._foreach_norm(tensors, 2.0, dtype)).norm()
