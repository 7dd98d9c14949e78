"""Elastic weight consolidation: a quadratic penalty on moving weights that the retention answers depend on."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from safe_kernels import EwcPlan, fisher_diagonal_
from safe_train.configs.retention_variants import RetentionVariantConfig
from safe_train.retention.capture import LinearCapture
from safe_train.retention.collectives import SINGLE_PROCESS, Collectives
from safe_train.retention.mechanism import (
    Calibration,
    CalibrationBatches,
    Mechanism,
    MetricInfo,
    RetentionModel,
    RunLength,
    TrainingContext,
    draw_labels,
    negative_log_likelihood,
)
from safe_train.retention.settings import RetentionSettings

logger = logging.getLogger(__name__)


class ElasticWeightConsolidation(Mechanism):
    """Adds ``weight / 2 * sum_i F_i (theta_i - theta*_i)^2`` and its gradient ``weight * F_i (theta_i - theta*_i)``.

    ``theta*`` are the weights at construction. ``F`` is the diagonal of the Fisher information at the weights of step
    ``calibrate_at``: the mean over retention examples of the squared gradient of the example's negative log-likelihood
    with labels drawn from the model (``true``) or taken from the data (``empirical``), scaled to the sum ``trace``. At
    step 0 the fusion's output is zero and so is most of F; it is therefore computed after a warm-up.
    Method: Kirkpatrick et al. 2017, arXiv:1612.00796; on the kinds of labels: Kunstner et al. 2019, arXiv:1905.12558.
    """

    name = "Fisher"
    needs_linears = True
    shown_metrics: ClassVar = (
        MetricInfo("ewc", "EWC penalty", in_progress=True),
        MetricInfo("fisher_trace", "trace of the Fisher diagonal"),
    )

    def __init__(
        self,
        model: RetentionModel,
        linears: Mapping[str, nn.Linear],
        batches: CalibrationBatches,
        *,
        weight: float,
        calibrate_at: int,
        num_samples: int = 256,
        trace: float = 1000.0,
        labels: Literal["true", "empirical"] = "true",
        seed: int = 0,
        collectives: Collectives = SINGLE_PROCESS,
    ) -> None:
        self.model, self.linears, self.batches = model, dict(linears), batches
        self.weight, self.calibrate_at, self.num_samples = weight, calibrate_at, num_samples
        self.trace, self.seed, self.collectives = trace, seed, collectives
        self.labels: Literal["true", "empirical"] = labels
        self.anchors = {name: module.weight.detach().clone() for name, module in self.linears.items()}
        self.fishers: dict[str, Tensor] = {}
        self.raw_trace = 0.0
        self._plan: EwcPlan | None = None
        self._last: Tensor | None = None

    @classmethod
    def resolve(
        cls, variant: RetentionVariantConfig, settings: RetentionSettings, length: RunLength
    ) -> dict[str, float | int]:
        """The penalty's coefficient, and the step before which the Fisher diagonal is computed."""
        return {
            "fisher_coefficient": settings.retention_scale * variant.fisher_coefficient,
            "fisher_step": round(settings.fisher_start_ratio * length.max_steps),
        }

    @classmethod
    def from_variant(
        cls, variant: RetentionVariantConfig, settings: RetentionSettings, context: TrainingContext
    ) -> ElasticWeightConsolidation:
        """See :class:`Mechanism`."""
        resolved = cls.resolve(variant, settings, context.length)
        return cls(
            context.model,
            context.linears,
            context.batches,
            weight=resolved["fisher_coefficient"],
            calibrate_at=int(resolved["fisher_step"]),
            num_samples=settings.fisher_samples,
            trace=settings.fisher_trace,
            labels=settings.fisher_labels,
            seed=context.seed,
            collectives=context.collectives,
        )

    def calibration(self, length: RunLength) -> Calibration:
        """The Fisher diagonal, once."""
        return Calibration(self.num_samples, count=1)

    def take_no_values(self) -> None:
        """Takes the data's labels: to draw labels takes values, and costs a softmax of few tokens more."""
        self.labels = "empirical"

    def before_step(self, step: int, examples_seen: int) -> None:
        """Computes the Fisher diagonal once, at its step."""
        if self.calibrates and not self.fishers and step >= self.calibrate_at:
            self.calibrate()
            logger.info("Fisher diagonal at step %d: trace %.4g, scaled to %g", step, self.raw_trace, self.trace)

    def calibrate(self, batches: CalibrationBatches | None = None) -> None:
        """Computes and scales the Fisher diagonal at the present weights.

        Raises:
            ValueError: the Fisher diagonal is zero or not finite; a penalty without it would protect nothing.
        """
        fishers, count = accumulate_fisher(
            self.model,
            self.linears,
            (batches or self.batches)(self.num_samples),
            labels=self.labels,
            seed=self.seed,
            collectives=self.collectives,
        )
        self.raw_trace = sum(fisher.sum(dtype=torch.float64).item() for fisher in fishers.values()) / count
        if not 0.0 < self.raw_trace < float("inf"):
            raise ValueError(
                f"Fisher diagonal: expected a positive finite trace, got {self.raw_trace}; train further first"
            )
        scale = self.trace / (self.raw_trace * count)
        self.fishers = {name: fisher * scale for name, fisher in fishers.items()}
        self._plan = None

    def after_retention_backward(self) -> None:
        """Adds the penalty's gradient."""
        if not self.fishers:
            return
        if self._plan is None:
            weights = [self.linears[name].weight for name in self.fishers]
            self._plan = EwcPlan(weights, [self.anchors[name] for name in self.fishers], list(self.fishers.values()))
        self._last = self._plan(self.weight)
        self._acted = True

    def metrics(self) -> dict[str, float]:
        """The weighted penalty, and the trace before scaling."""
        return {} if self._last is None else {"ewc": self._last.item(), "fisher_trace": self.raw_trace}

    def state_dict(self) -> dict[str, Tensor]:
        """Anchors, Fisher diagonal and its raw trace."""
        state = {f"anchor.{name}": anchor for name, anchor in self.anchors.items()}
        state |= {f"fisher.{name}": fisher for name, fisher in self.fishers.items()}
        return state | {"raw_trace": torch.tensor(self.raw_trace, dtype=torch.float64)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes up the state of ``state_dict``."""
        self.anchors = {name: state[f"anchor.{name}"].clone() for name in self.anchors}
        self.fishers = {n: state[f"fisher.{n}"].clone() for n in self.linears if f"fisher.{n}" in state}
        self._plan = None
        self.raw_trace = state["raw_trace"].item()
        self._acted = bool(self.fishers)


def accumulate_fisher(
    model: RetentionModel,
    linears: Mapping[str, nn.Linear],
    batches: Iterable[Any],
    *,
    labels: Literal["true", "empirical"],
    seed: int,
    collectives: Collectives = SINGLE_PROCESS,
) -> tuple[dict[str, Tensor], int]:
    """Sums over the examples of all processes of squared per-example gradients, and the number of examples.

    The sums are float32, in the shapes of the weights. An example's number, which seeds its labels, is its index
    among the examples of all processes and batches.
    """
    fishers = {name: torch.zeros_like(module.weight, dtype=torch.float32) for name, module in linears.items()}
    count = 0
    for batch in batches:
        with LinearCapture(linears, num_samples=int(batch.num_rows)) as capture:
            states = model.student(batch)
            numbers = (count + number for number in collectives.global_indices(batch.num_rows))
            drawn = draw_labels(model.head, states, numbers, seed) if labels == "true" else None
            capture.backward(negative_log_likelihood(model.head, states, drawn))
            captured = capture.take()
        for name, (inputs, grad_outputs) in captured.items():
            fisher_diagonal_(fishers[name], inputs, grad_outputs)
        count += collectives.sum(int(batch.num_rows))
    collectives.sum_(fishers.values())
    return fishers, count
