"""The interface between a mechanism and a model, and the hooks of a training step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safe_train.configs.retention_variants import RetentionVariantConfig
from safe_train.retention.collectives import SINGLE_PROCESS, Collectives
from safe_train.retention.settings import RetentionSettings

_LABELS = int.from_bytes(b"labels", "big")  # tells these random numbers from the others of a seed


@dataclass(frozen=True)
class AnswerStates:
    """Hidden states at the positions that predict answer tokens.

    Attributes:
        hidden: [N, H].
        labels: int64 [N], the answer tokens of the data.
        rows: int64 [N], the batch index of the example that each belongs to.
    """

    hidden: Tensor
    labels: Tensor
    rows: Tensor


class LogitHead(Protocol):
    """The frozen map from hidden states to logits that student and teacher share."""

    @property
    def weight(self) -> Tensor:
        """Weight [V, H]."""
        ...

    @property
    def bias(self) -> Tensor | None:
        """Bias [V], or None."""
        ...

    @property
    def logit_softcap(self) -> float | None:
        """Cap of ``cap * tanh(z / cap)``, or None."""
        ...

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits [N, V] in float32."""
        ...


class RetentionModel(Protocol):
    """A student that should behave like its teacher on retention examples."""

    @property
    def head(self) -> LogitHead:
        """The shared head."""
        ...

    def student(self, batch: Any) -> AnswerStates:
        """The trained model on a batch of retention examples, with audio attached, gradients on."""
        ...

    def teacher(self, batch: Any) -> Tensor:
        """Hidden states [N, H] of the same tokens in the bypass, without gradients."""
        ...


CalibrationBatches = Callable[[int], Iterator[Any]]
"""Gives batches with at least this many retention examples in all, for calibration; of each, this process's share."""


@dataclass(frozen=True)
class RunLength:
    """The length of a training, from which thresholds are derived.

    Attributes:
        max_steps: optimizer steps.
        examples_per_step: retention examples of all processes in a step.
    """

    max_steps: int
    examples_per_step: int

    @property
    def num_examples(self) -> int:
        """Retention examples that go by in the training, repetitions counted."""
        return self.max_steps * self.examples_per_step


@dataclass(frozen=True)
class TrainingContext:
    """What a training provides to its mechanisms.

    Attributes:
        model: student and teacher.
        linears: the trained linear layers by the names of their weights.
        batches: returns batches of retention examples for calibration.
        optimizer: trains the weights.
        length: length of the training.
        seed: seed of a mechanism's random draws.
        collectives: collective operations of the processes that share each batch.
    """

    model: RetentionModel
    linears: Mapping[str, nn.Linear]
    batches: CalibrationBatches
    optimizer: torch.optim.Optimizer
    length: RunLength
    seed: int = 0
    collectives: Collectives = SINGLE_PROCESS


@dataclass(frozen=True)
class MetricInfo:
    """How a metric of a mechanism is shown.

    Attributes:
        key: its name in :meth:`Mechanism.metrics` and in ``metrics.jsonl``.
        title: title of its plot.
        is_ratio: whether its values lie between 0 and 1; if not, its axis is logarithmic.
        in_progress: whether the progress bar shows it.
    """

    key: str
    title: str
    is_ratio: bool = False
    in_progress: bool = False


@dataclass(frozen=True)
class Calibration:
    """What a mechanism computes from retention examples at intervals.

    Attributes:
        num_examples: examples used each time.
        count: number of times in the training.
        keeps_captures: whether memory grows with the number of examples; otherwise only sums are kept.
    """

    num_examples: int
    count: int
    keeps_captures: bool = False


class Mechanism:
    """A retention mechanism; every hook does nothing unless a mechanism overrides it.

    A new one is a subclass in a module of its own and a line of :data:`~safe_train.retention.registry.MECHANISMS`.

    Attributes:
        name: name in logs and tables.
        adds_loss: whether it adds a loss on retention examples at each step.
        needs_teacher: whether that loss compares with the teacher.
        needs_linears: whether it requires trained linear layers.
        shown_metrics: those of its metrics that reports plot, in their order.
        calibrates: whether ``before_step`` calibrates when that is due.
        records_metrics: whether ``metrics`` will be called for the step; if not, work that only they need is skipped.
    """

    name = "mechanism"
    adds_loss = False
    needs_teacher = False
    needs_linears = False
    shown_metrics: ClassVar[tuple[MetricInfo, ...]] = ()
    calibrates = True
    records_metrics = True
    _acted = False

    @classmethod
    def resolve(
        cls, variant: RetentionVariantConfig, settings: RetentionSettings, length: RunLength
    ) -> dict[str, float | int]:
        """What variant and settings amount to in a training of this length, by name; also where the variant has it off.

        Each coefficient once, thresholds fitted to the length; ``config.json`` of a run has them.
        """
        return {}

    @classmethod
    def from_variant(
        cls, variant: RetentionVariantConfig, settings: RetentionSettings, context: TrainingContext
    ) -> Mechanism:
        """Builds the mechanism for a variant that enables it."""
        raise NotImplementedError(f"{cls.__name__}.from_variant")

    def calibration(self, length: RunLength) -> Calibration | None:
        """What it calibrates in a training of this length, None if nothing."""
        return None

    def calibrate(self, batches: CalibrationBatches | None = None) -> None:
        """Calibrates at the present weights; from other batches than the training's, if any are given."""

    def calibrated(self) -> list[Tensor]:
        """What the last calibration left and the next replaces: it is there while the next is computed."""
        return []

    def take_no_values(self) -> None:
        """Prepares for tensors without values, such as those of the meta device, on which costs are estimated."""

    @property
    def was_active(self) -> bool:
        """Whether it has had any effect so far."""
        return self._acted

    def before_step(self, step: int, examples_seen: int) -> None:
        """Before a step's first forward pass; ``examples_seen`` counts the retention examples of the steps before."""

    def loss(self, student: AnswerStates, teacher_hidden: Tensor | None) -> Tensor | None:
        """A weighted term of the retention loss, or None; the teacher's states come if any mechanism needs them."""
        return None

    def after_task_backward(self) -> None:
        """Called when the gradients are those of the task loss only."""

    def after_retention_backward(self) -> None:
        """When the gradients are those of the total loss."""

    def before_optimizer_step(self, clip_coefficient: float) -> None:
        """After clipping by this factor."""

    def after_optimizer_step(self) -> None:
        """When the optimizer has moved the parameters."""

    def metrics(self) -> dict[str, float]:
        """What the mechanism did in the last step, for the metrics."""
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors from which ``load_state_dict`` continues exactly."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes up the state of ``state_dict``."""


def negative_log_likelihood(head: LogitHead, states: AnswerStates, labels: Tensor | None = None) -> Tensor:
    """Sum over all tokens of ``-log p(label)``; its gradient for one example is that of the example's own sum."""
    return F.cross_entropy(head(states.hidden), states.labels if labels is None else labels, reduction="sum")


def draw_labels(head: LogitHead, states: AnswerStates, numbers: Iterable[int], seed: int) -> Tensor:
    """Labels [N] drawn from the model's own predictions p.

    The label of token t is the first v with ``p(0) + ... + p(v) > u_t``, where u_t is uniform on [0, 1): the inverse of
    the distribution function. The u_t of an example come from its own generator, seeded by ``seed`` and
    the example's number, so that its labels do not depend on how examples are batched or distributed over processes.
    Sums are taken in float64 on the CPU, for equal draws everywhere. What is left is rounding of p, which moves a label
    where u_t lies within it of a step of the distribution function: about one token in a million in float32.

    Args:
        head: maps the states to logits.
        states: of the tokens, those of an example in their order.
        numbers: for each example of the batch, its number among all examples of the calibration.
        seed: seed of the draws.
    """
    with torch.no_grad():
        cumulative = head(states.hidden).softmax(dim=-1).double().cpu().cumsum(dim=-1)
    rows = states.rows.cpu()
    uniform = torch.empty(len(rows), dtype=torch.float64)
    for row, number in enumerate(numbers):
        of_row = rows == row
        drawn = np.random.default_rng([_LABELS, seed, number]).random(int(of_row.sum()))
        uniform[of_row] = torch.from_numpy(drawn)
    # The last sum differs from 1 by rounding.
    labels = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)[:, 0]
    return labels.clamp_max(cumulative.shape[1] - 1).to(states.labels.device)


def gradient_of(parameter: Tensor) -> Tensor:
    """The parameter's gradient, zeros if nothing has reached it yet."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
