"""The Stage A trainer: trains projectors and fusions on audio while the mechanisms keep the base's answers."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from safe_train.config import StageAConfig
from safe_train.errors import InputError, NonFiniteLossError, PeerRankError, StoppedError
from safe_train.io.files import append_line
from safe_train.model.batch import Batch
from safe_train.model.retention_model import SafeRetentionModel
from safe_train.model.safe_model import SafeModel
from safe_train.retention import MECHANISMS, RunLength, TrainingContext, build_mechanisms
from safe_train.retention.stack import resolve_retention, resolve_variant
from safe_train.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, set_aside_later
from safe_train.runs.layout import RunFolder
from safe_train.runs.metrics_log import has_step, keep_up_to, last_values
from safe_train.training.batches import StepBatches
from safe_train.training.build import teacher_cache
from safe_train.training.failed_step import dump_failed_step
from safe_train.training.schedules import gate_schedule, learning_rate_schedule
from safe_train.training.settings import OptimizationSettings


@dataclass(frozen=True)
class TrainingOutcome:
    """How the training ended.

    Attributes:
        steps: optimizer steps done in all.
        finished: False if it was asked to stop early.
        seconds: time spent in steps by this process.
        inactive: mechanisms that are on but never had an effect.
        last: the last logged metrics.
        processes: number of processes at the end.
    """

    steps: int
    finished: bool
    seconds: float
    inactive: list[str]
    last: dict[str, float]
    processes: int


class StageATrainer:
    """One training run, in one process or as one of several that share the examples of each batch.

    Attributes:
        config: its configuration.
        model: SAFE; only projectors, fusions and LoRA are trained.
        optimizer: AdamW on the trained parts.
        variant: the registered variant, with the null-space settings of the configuration.
        effective: the variant's coefficients and thresholds in this run, by name.
        retention: the variant's mechanisms.
        batches: those of each step.
        processes: the process group.
        step: optimizer steps done.
    """

    def __init__(
        self,
        config: StageAConfig,
        model: SafeModel,
        batches: StepBatches,
    ) -> None:
        """Prepares the first step.

        Raises:
            InputError: the variant names a mechanism that is not registered.
        """
        self.config, self.model, self.batches, self.processes = config, model, batches, batches.processes
        self.step = 0
        self.optimizer: torch.optim.Optimizer = build_optimizer(model, config.optimization)
        length = RunLength(config.optimization.max_steps, batches.retention_examples_per_step)
        self.variant = resolve_variant(config.retention_variant(), config.retention)
        self.effective = resolve_retention(self.variant, config.retention, length)
        context = TrainingContext(
            model=SafeRetentionModel(model, teacher_cache(model, batches.collator, config)),
            linears=model.trainable_linears(),
            batches=self._calibration_batches,
            optimizer=self.optimizer,
            length=length,
            seed=config.seed,
            collectives=self.processes,
        )
        try:
            self.retention = build_mechanisms(self.variant, config.retention, context)
        except ValueError as error:
            known = f"mechanisms of {', '.join(MECHANISMS)}"
            raise InputError(f"variant {self.variant.name}", known, str(error), "register it in MECHANISMS") from error
        batches.with_retention = self.retention.adds_loss

    def train(
        self,
        run: Path,
        *,
        on_step: Callable[[int, dict[str, float]], None] = lambda _step, _metrics: None,
        on_interval: Callable[[int], None] = lambda _step: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> TrainingOutcome:
        """Trains up to ``max_steps``; the main process writes metrics and checkpoints into ``run``.

        Args:
            run: the run's folder; made if it is not there.
            on_step: called after each step with its number and, at logged steps, the metrics (else an empty dict).
            on_interval: called every ``evaluation.eval_steps`` steps; a ``StoppedError`` of it, in all processes, is
                taken as a request to stop, and the run resumes with this call.
            should_stop: asked after each step; if true in any process, a checkpoint is written and training ends early.

        Raises:
            InputError: a file of an example cannot be read, or the processes' weights are not the same.
            NonFiniteLossError: a loss or gradient is not finite; the step is dumped, to be rerun.
        """
        start, folder, total = time.perf_counter(), RunFolder(run), self.config.optimization.max_steps
        self.processes.require_same("trained weights", self.model.trainable_parameters())
        if self.processes.is_main:
            run.mkdir(parents=True, exist_ok=True)
        last = last_values(folder.metrics_log) if self.step else {}
        stopped = False
        if self._ends_interval() and self.processes.broadcast(not has_step(folder.evaluation_log, self.step)):
            stopped = self._stopped_within(on_interval, folder)  # the run was cut off behind its checkpoint
        with self.batches.prefetched(self.step, total):
            while self.step < total and not stopped:
                logged = (self.step + 1) % self.config.log_every == 0 or self.step + 1 == total
                try:
                    metrics = self.train_step(measure=logged)
                except NonFiniteLossError as error:  # of several processes, in the main one alone
                    raise NonFiniteLossError(f"{error}; {dump_failed_step(self, folder)}") from error
                if logged:
                    last = metrics | {"seconds": time.perf_counter() - start, "data_seconds": self.batches.waited}
                    with self.processes.raise_on_any_rank():
                        if self.processes.is_main:
                            append_line(folder.metrics_log, json.dumps({"step": self.step} | last))
                stopped = self.processes.any(should_stop())
                if stopped or self.step % self.config.checkpoint_every == 0 or self.step == total:
                    self._save(folder)
                on_step(self.step, last if logged else {})  # last: whoever is told may be gone, with an error
                if self._ends_interval() and not stopped:
                    stopped = self._stopped_within(on_interval, folder)
        seconds = time.perf_counter() - start
        return TrainingOutcome(
            self.step, self.step >= total, seconds, self.retention.inactive(), last, self.processes.world_size
        )

    def train_step(self, *, measure: bool = True) -> dict[str, float]:
        """One optimizer step; returns its metrics if ``measure`` is set.

        Raises:
            NonFiniteLossError: a loss, a gradient or what a mechanism computes from gradients is not finite.
        """
        scale = self._set_schedules()
        self.optimizer.zero_grad(set_to_none=True)
        self.retention.record_metrics(measure)
        self._calibrate_if_due()
        batch = self.batches.at(self.step)
        found = self._backward_passes(batch.task, batch.retention)
        self.batches.stage(self.step + 1)  # before the first value is asked for, which the host has to wait for
        losses = {name: value.item() for name, value in found.items()}
        with self.processes.raise_on_any_rank():
            _require_finite(self.step + 1, losses)
        self.retention.before_optimizer_step(clip_coefficient(losses["gradient_norm"], self.config.optimization))
        self.optimizer.step()
        self.retention.after_optimizer_step()
        self.step += 1
        if not measure:
            return {}
        return losses | {"lr_scale": scale, "gate": self.model.gate} | self.retention.metrics()

    def compute_gradient(self, task: Sequence[Batch], retention: Sequence[Batch]) -> dict[str, float]:
        """Both backward passes of a step, from no gradient; the clipped gradient is left in the parameters.

        Args:
            task: this process's batches of audio examples.
            retention: the same of retention examples; empty where no mechanism adds a loss.

        Returns:
            The task loss and the retention loss, means over answer tokens, and the gradient's norm before clipping.
        """
        return {name: value.item() for name, value in self._backward_passes(task, retention).items()}

    def _backward_passes(self, task: Sequence[Batch], retention: Sequence[Batch]) -> dict[str, Tensor]:
        """:meth:`compute_gradient`, with values that a GPU may still have to compute."""
        audio_loss = self._backward(task, self._task_loss)
        self.retention.after_task_backward()
        retention_loss = self._backward(retention, self._retention_loss) if retention else torch.zeros(())
        self.retention.after_retention_backward()

        parameters, largest = self.model.trainable_parameters().values(), self.config.optimization.max_grad_norm
        norm = torch.nn.utils.clip_grad_norm_(parameters, largest)
        return {"audio_loss": audio_loss, "retention_loss": retention_loss, "gradient_norm": norm}

    def _backward(self, batches: Sequence[Batch], loss_of: Callable[[Batch, int], Tensor]) -> Tensor:
        """Backward pass of a mean loss over all answer tokens of the step's examples, in all processes.

        Args:
            batches: this process's.
            loss_of: returns a batch's part of the mean over so many tokens.

        Returns:
            The mean.
        """
        tokens = self.processes.sum(sum(len(batch.labels) for batch in batches))
        total = torch.zeros((), device=self.model.base.model.device)
        with self.processes.summed_gradients(self.model.trainable_parameters().values()):
            for batch in batches:
                loss = loss_of(batch, tokens)
                loss.backward()
                total += loss.detach()
        self.processes.sum_([total])
        return total

    def _task_loss(self, batch: Batch, tokens: int) -> Tensor:
        """Cross-entropy of the answers to audio examples."""
        hidden = self.model.last_hidden_state(batch.inputs, batch.features)
        logits = self.model.base.head(hidden[batch.token_rows, batch.token_positions])
        smoothing = self.config.optimization.label_smoothing
        return F.cross_entropy(logits, batch.labels, reduction="sum", label_smoothing=smoothing) / tokens

    def _retention_loss(self, batch: Batch, tokens: int) -> Tensor:
        """The mechanisms' loss, which is a mean over the batch's own tokens."""
        return self.retention.loss(batch) * (len(batch.labels) / tokens)

    def _set_schedules(self) -> float:
        """Sets gate and learning rates of the step; returns the factor on the peak learning rates."""
        settings = self.config.optimization
        self.model.gate = gate_schedule(self.step, settings)
        scale = learning_rate_schedule(self.step, settings)
        for group in self.optimizer.param_groups:
            group["lr"] = scale * group["peak_lr"]
        return scale

    def _calibrate_if_due(self) -> None:
        """Lets the mechanisms compute what they need before a step.

        Raises:
            NonFiniteLossError: a mechanism can make nothing of the gradients that it gets, since they are not finite or
                all zero. They are sums over all processes, so each meets the same, and the main one reports it.
            PeerRankError: likewise, in the others.
        """
        try:
            self.retention.before_step(self.step, self.step * self.batches.retention_examples_per_step)
        except ValueError as error:
            if not self.processes.is_main:
                raise PeerRankError(is_input=False) from error
            line = " ".join(str(error).split())
            raise NonFiniteLossError(f"step {self.step + 1}, calibration: {line}") from error

    def _calibration_batches(self, num_examples: int) -> Iterator[Batch]:
        return self.batches.for_calibration(self.step, num_examples)

    def _ends_interval(self) -> bool:
        """Whether the last step is one after which there is an evaluation."""
        every = self.config.evaluation.eval_steps
        return every > 0 and self.step % every == 0 and 0 < self.step < self.config.optimization.max_steps

    def _stopped_within(self, on_interval: Callable[[int], None], folder: RunFolder) -> bool:
        """Whether what comes after an interval was stopped; there is a checkpoint of the step then."""
        try:
            on_interval(self.step)
        except StoppedError:
            self._save(folder)
            return True
        return False

    def _save(self, folder: RunFolder) -> None:
        """Writes a checkpoint of the weights that all processes have, if they are fit to resume from."""
        self.processes.require_same("trained weights", self.model.trainable_parameters())
        with self.processes.raise_on_any_rank():
            require_finite_weights(self.step, self.model.trainable_parameters())
            if self.processes.is_main:
                save_checkpoint(
                    folder.checkpoints,
                    self.step,
                    self.model,
                    self.optimizer,
                    self.retention,
                    keep=self.config.checkpoint_keep,
                    config=self.config,
                )

    def resume(self, checkpoint: Checkpoint, run: Path) -> None:
        """Goes back to a checkpoint; later checkpoints are set aside, later lines of metrics dropped.

        Raises:
            InputError: the checkpoint cannot be loaded, or the run's folder cannot be written.
        """
        with self.processes.raise_on_any_rank():
            load_checkpoint(checkpoint, self.model, self.optimizer, self.retention)
            self.step = checkpoint.step
            if self.processes.is_main:
                set_aside_later(checkpoint)
                for log in (RunFolder(run).metrics_log, RunFolder(run).evaluation_log):
                    keep_up_to(log, self.step)

    def described_configuration(self) -> dict[str, Any]:
        """What ``config.json`` holds: every setting, and what the variant's settings amount to in this run."""
        return self.config.model_dump(mode="json") | {
            "effective": {
                "retention_variant": self.variant.to_dict(),
                "retention": self.effective,
                "adapter": asdict(self.model.config),
                "trainable_parameters": sum(p.numel() for p in self.model.trainable_parameters().values()),
            }
        }


def build_optimizer(model: SafeModel, settings: OptimizationSettings) -> torch.optim.AdamW:
    """AdamW with a learning rate for the projectors and one for the rest."""
    parameters = model.trainable_parameters()
    projectors = [p for name, p in parameters.items() if name.startswith("projectors.")]
    adapters = [p for name, p in parameters.items() if not name.startswith("projectors.")]
    groups = [
        {"params": projectors, "lr": settings.lr_projector, "peak_lr": settings.lr_projector},
        {"params": adapters, "lr": settings.lr_adapter, "peak_lr": settings.lr_adapter},
    ]
    betas = (settings.adam_beta1, settings.adam_beta2)
    return torch.optim.AdamW(groups, betas=betas, weight_decay=settings.weight_decay)


def clip_coefficient(norm: float, settings: OptimizationSettings) -> float:
    """The factor by which ``torch.nn.utils.clip_grad_norm_`` multiplies a gradient of this norm."""
    return min(1.0, settings.max_grad_norm / (norm + 1e-6))


def _require_finite(step: int, values: dict[str, float]) -> None:
    if not all(math.isfinite(value) for value in values.values()):
        got = ", ".join(f"{name} {value}" for name, value in values.items())
        raise NonFiniteLossError(f"step {step}: expected finite values, got {got}; lower the learning rates")


def require_finite_weights(step: int, parameters: Mapping[str, Tensor]) -> None:
    """Finds out whether the weights are fit to be written over those of an older checkpoint.

    Raises:
        NonFiniteLossError: one is not finite.
    """
    damaged = [name for name, parameter in parameters.items() if not parameter.detach().isfinite().all()]
    if damaged:
        got = f"{len(damaged)} tensors with others ({damaged[0]})"
        raise NonFiniteLossError(f"after step {step}: expected finite weights, got {got}; lower the learning rates")
