"""Stage A: trains projectors and fusions on audio rows while the variant's mechanisms hold the base's answers."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from safe_train.config import StageAConfig
from safe_train.configs.retention_variants import get_variant_config
from safe_train.data.collator import Collator
from safe_train.data.example import Example
from safe_train.data.sampler import ExampleSampler, length_buckets
from safe_train.distributed.processes import ALONE, Processes
from safe_train.errors import InputError, NonFiniteLossError, PeerRankError, StoppedError
from safe_train.io.files import append_line
from safe_train.model.batch import Batch
from safe_train.model.retention_model import SafeRetentionModel
from safe_train.model.safe_model import SafeModel
from safe_train.retention import RetentionStack, build_mechanisms
from safe_train.retention.stack import effective_retention, resolved_variant
from safe_train.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, set_aside_later
from safe_train.runs.layout import RunFolder
from safe_train.runs.metrics_log import has_step, keep_up_to, last_values
from safe_train.training.build import teacher_cache
from safe_train.training.failed_step import dump_failed_step
from safe_train.training.settings import OptimizationSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingOutcome:
    """How the training ended.

    Attributes:
        steps: optimizer steps done in all.
        finished: False if it was asked to stop early.
        seconds: time spent in steps by this process.
        inactive: mechanisms that are on but never had an effect.
        last: the last line of metrics.
        processes: how many took part at its end.
    """

    steps: int
    finished: bool
    seconds: float
    inactive: list[str]
    last: dict[str, float]
    processes: int


def learning_rate_schedule(step: int, settings: OptimizationSettings) -> float:
    """Linear warm-up, then a half cosine down to zero at ``max_steps``."""
    warmup = max(1, round(settings.warmup_ratio * settings.max_steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, settings.max_steps - warmup)))


def gate_schedule(step: int, settings: OptimizationSettings) -> float:
    """The gate during a step: opens linearly from 0 to 1 and stays there."""
    warmup = round(settings.gate_warmup_ratio * settings.max_steps)
    return 1.0 if step >= warmup else (step + 1) / (warmup + 1)


class StageATrainer:
    """One training run, alone or as one of several processes that share the rows of each batch.

    Attributes:
        config: its configuration.
        model: SAFE; only projectors, fusions and LoRA are trained.
        optimizer: AdamW on the trained parts.
        variant: the registered variant, with the null-space settings of the configuration.
        stack: the variant's mechanisms.
        processes: those that take part.
        step: optimizer steps done.
    """

    def __init__(
        self,
        config: StageAConfig,
        model: SafeModel,
        encoder: Collator,
        stream: ExampleSampler,
        processes: Processes = ALONE,
    ) -> None:
        """Prepares the first step.

        Raises:
            InputError: there are more processes than rows in a batch.
        """
        self.config, self.model, self.encoder, self.stream = config, model, encoder, stream
        self.processes = processes
        self.step = 0
        settings = config.optimization
        require_examples_for_all_ranks(settings, processes)
        self.rows_per_step = settings.vl_batch_size * settings.gradient_accumulation_steps
        variant = self.variant = resolved_variant(get_variant_config(config.variant), config.retention)
        self.effective = effective_retention(
            variant, config.retention, max_steps=settings.max_steps, rows_per_step=self.rows_per_step
        )
        self.optimizer = build_optimizer(model, settings)
        self.stack: RetentionStack = build_mechanisms(
            variant,
            config.retention,
            self.effective,
            model=SafeRetentionModel(model, teacher_cache(model, encoder, config)),
            linears=model.trainable_linears(),
            batches=self._calibration_batches,
            optimizer=self.optimizer,
            seed=config.seed,
            collectives=processes,
        )

    def described_configuration(self) -> dict[str, Any]:
        """What ``config.json`` holds: every setting, and what the variant's settings amount to in this run."""
        return self.config.model_dump(mode="json") | {
            "effective": {
                "retention_variant": self.variant.to_dict(),
                "retention": asdict(self.effective),
                "adapter": asdict(self.model.config),
                "trainable_parameters": sum(p.numel() for p in self.model.trainable_parameters().values()),
            }
        }

    def resume(self, checkpoint: Checkpoint, run: Path) -> None:
        """Goes back to a checkpoint; later checkpoints are set aside, later lines of metrics dropped.

        Raises:
            InputError: the checkpoint cannot be loaded, or the run's folder cannot be written.
        """
        with self.processes.raise_on_any_rank():
            load_checkpoint(checkpoint, self.model, self.optimizer, self.stack)
            self.step = checkpoint.step
            if self.processes.is_main:
                set_aside_later(checkpoint)
                for log in (RunFolder(run).metrics_log, RunFolder(run).evaluation_log):
                    keep_up_to(log, self.step)

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
            on_interval: called every ``evaluation.eval_steps`` steps; a ``StoppedError`` of it, in all processes, counts
                as a request to stop, and the run resumes with this call.
            should_stop: asked after each step; if true in any process, a checkpoint is written and training ends early.

        Raises:
            InputError: a file of a row cannot be read, or the processes' weights are not the same.
            NonFiniteLossError: a loss or gradient is not finite.
        """
        start = time.perf_counter()
        self.processes.require_same("trained weights", self.model.trainable_parameters())
        if self.processes.is_main:
            run.mkdir(parents=True, exist_ok=True)
        last = last_values(RunFolder(run).metrics_log) if self.step else {}
        total = self.config.optimization.max_steps
        stopped = False
        if self._ends_interval() and self.processes.broadcast(not has_step(RunFolder(run).evaluation_log, self.step)):
            stopped = self._stopped_within(on_interval, run)  # the run was cut off behind its checkpoint
        while self.step < total and not stopped:
            logged = (self.step + 1) % self.config.log_every == 0 or self.step + 1 == total
            metrics = self._step_or_dump(run, measure=logged)
            if logged:
                last = metrics | {"seconds": time.perf_counter() - start}
                with self.processes.raise_on_any_rank():
                    if self.processes.is_main:
                        append_line(RunFolder(run).metrics_log, json.dumps({"step": self.step} | last))
            stopped = self.processes.any(should_stop())
            if stopped or self.step % self.config.checkpoint_every == 0 or self.step == total:
                self._save(run)
            on_step(self.step, last if logged else {})  # last: whoever is told may be gone, with an error
            if self._ends_interval() and not stopped:
                stopped = self._stopped_within(on_interval, run)
        seconds = time.perf_counter() - start
        return TrainingOutcome(
            self.step, self.step >= total, seconds, self.stack.inactive(), last, self.processes.world_size
        )

    def _stopped_within(self, on_interval: Callable[[int], None], run: Path) -> bool:
        """Whether what comes after an interval was stopped; there is a checkpoint of the step then."""
        try:
            on_interval(self.step)
        except StoppedError:
            self._save(run)
            return True
        return False

    def _ends_interval(self) -> bool:
        """Whether the last step is one after which there is an evaluation."""
        every = self.config.evaluation.eval_steps
        return every > 0 and self.step % every == 0 and 0 < self.step < self.config.optimization.max_steps

    def _step_or_dump(self, run: Path, *, measure: bool) -> dict[str, float]:
        """One optimizer step; where it meets what is not finite, its batch and the state before it are kept."""
        try:
            return self.train_step(measure=measure)
        except NonFiniteLossError as error:  # of several processes, in the main one alone
            raise NonFiniteLossError(f"{error}; {dump_failed_step(self, run)}") from error

    def step_rows(self) -> dict[str, list[list[Example]]]:
        """The audio rows and the protected rows of each micro-batch of the step that is next, of all processes."""
        settings = self.config.optimization
        audio = [self.stream.audio_batch(number, settings.audio_batch_size) for number in self._numbers()]
        protected = [self.stream.retention_batch(number, settings.vl_batch_size) for number in self._numbers()]
        return {"audio": audio, "vl": protected if self.stack.adds_loss else []}  # the name that replay reads, too

    def encode(self, kind: str, rows: Sequence[Example]) -> Batch:
        """Audio rows, or protected rows; audio is attached to each of these, silence where it has no clip."""
        batch = self.encoder.training_batch(rows, protected=kind != "audio")
        return batch if kind == "audio" else replace(batch, features=self.encoder.features_of(rows))

    def _save(self, run: Path) -> None:
        """Writes a checkpoint of the weights that all processes have, if they are fit to go on from."""
        self.processes.require_same("trained weights", self.model.trainable_parameters())
        with self.processes.raise_on_any_rank():
            require_finite_weights(self.step, self.model.trainable_parameters())
            if self.processes.is_main:
                keep = self.config.checkpoint_keep
                save_checkpoint(
                    RunFolder(run).checkpoints,
                    self.step,
                    self.model,
                    self.optimizer,
                    self.stack,
                    keep=keep,
                    config=self.config,
                )

    def train_step(self, *, measure: bool = True) -> dict[str, float]:
        """One optimizer step; returns its metrics if ``measure`` is set."""
        settings = self.config.optimization
        self.model.gate = gate_schedule(self.step, settings)
        scale = learning_rate_schedule(self.step, settings)
        for group in self.optimizer.param_groups:
            group["lr"] = scale * group["peak_lr"]
        self.optimizer.zero_grad(set_to_none=True)
        self.stack.record_metrics(measure)
        self._calibrate_if_due()
        audio = [batch for number in self._numbers() for batch in self._audio_batches(number)]
        numbers = self._numbers() if self.stack.adds_loss else ()
        protected = [batch for number in numbers for batch in self._retention_batches(number)]
        losses = self.compute_gradient(audio, protected)
        with self.processes.raise_on_any_rank():
            _require_finite(self.step + 1, losses)
        norm = losses["gradient_norm"]
        self.stack.before_optimizer_step(min(1.0, settings.max_grad_norm / (norm + 1e-6)))
        self.optimizer.step()
        self.stack.after_optimizer_step()
        self.step += 1
        if not measure:
            return {}
        return losses | {"lr_scale": scale, "gate": self.model.gate} | self.stack.metrics()

    def _calibrate_if_due(self) -> None:
        """Lets the mechanisms compute what they need before a step.

        Raises:
            NonFiniteLossError: a mechanism can make nothing of the gradients that it gets, since they are not finite or
                all zero. They are sums over all processes, so each meets the same, and the main one tells it.
            PeerRankError: likewise, in the others.
        """
        try:
            self.stack.before_step(self.step, self.step * self.rows_per_step)
        except ValueError as error:
            if not self.processes.is_main:
                raise PeerRankError(is_input=False) from error
            line = " ".join(str(error).split())
            raise NonFiniteLossError(f"step {self.step + 1}, calibration: {line}") from error

    def compute_gradient(self, audio: Sequence[Batch], protected: Sequence[Batch]) -> dict[str, float]:
        """Both backward passes of a step, from no gradient; the clipped gradient is left in the parameters.

        Args:
            audio: this process's share of each micro-batch of audio rows.
            protected: the same of protected rows; empty where no mechanism adds a loss.

        Returns:
            The audio loss and the retention loss, means over answer tokens, and the gradient's norm before clipping.
        """
        audio_loss = self._backward(audio, self._audio_loss)
        self.stack.after_task_backward()
        retention_loss = self._backward(protected, self._retention_loss) if protected else torch.zeros(())
        self.stack.after_retention_backward()

        parameters, largest = self.model.trainable_parameters().values(), self.config.optimization.max_grad_norm
        norm = torch.nn.utils.clip_grad_norm_(parameters, largest)
        return {
            "audio_loss": audio_loss.item(),
            "retention_loss": retention_loss.item(),
            "gradient_norm": norm.item(),
        }

    def _backward(self, batches: Sequence[Batch], loss_of: Callable[[Batch, int], Tensor]) -> Tensor:
        """Backward pass of a mean loss over all answer tokens of the step's rows, in all processes.

        Args:
            batches: this process's share of each micro-batch.
            loss_of: gives the share's part of the mean over so many tokens.

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

    def _audio_loss(self, batch: Batch, tokens: int) -> Tensor:
        """Cross-entropy of the answers to audio rows."""
        hidden = self.model.last_hidden_state(batch.inputs, batch.features)
        logits = self.model.base.head(hidden[batch.token_rows, batch.token_positions])
        return F.cross_entropy(logits, batch.labels, reduction="sum") / tokens

    def _retention_loss(self, batch: Batch, tokens: int) -> Tensor:
        """The mechanisms' loss, which is a mean over the batch's own tokens."""
        return self.stack.loss(batch) * (len(batch.labels) / tokens)

    def _numbers(self) -> range:
        """Numbers of this step's micro-batches."""
        count = self.config.optimization.gradient_accumulation_steps
        return range(self.step * count, (self.step + 1) * count)

    def _audio_batches(self, number: int) -> list[Batch]:
        """This process's audio rows."""
        return self._bucketed("audio", self.stream.audio_batch(number, self.config.optimization.audio_batch_size))

    def _retention_batches(self, number: int) -> list[Batch]:
        """This process's protected rows, VL and text-only."""
        return self._bucketed("vl", self._retention_examples(number))

    def _retention_examples(self, number: int) -> list[Example]:
        return self.stream.retention_batch(number, self.config.optimization.vl_batch_size)

    def _bucketed(self, kind: str, rows: Sequence[Example]) -> list[Batch]:
        """This process's share of the rows; with length buckets, those with and without an image apart."""
        with self.processes.raise_on_any_rank():
            share = self.processes.shard(rows)
            buckets = length_buckets(share) if self.config.data.length_buckets else [share]
            batches = [self.encode(kind, bucket) for bucket in buckets]
        return batches

    def _calibration_batches(self, num_samples: int) -> Iterator[Batch]:
        """The coming protected rows, at least ``num_samples`` of them in all processes.

        The activation subspace counts the inputs at padding too, so a share is padded as the whole batch would be, and
        there are no length buckets.
        """
        size = self.config.optimization.vl_batch_size
        first = self._numbers().start
        for number in range(first, first + -(-num_samples // size)):
            with self.processes.raise_on_any_rank():
                batch = self.encode("vl", self.processes.shard(self._retention_examples(number)))
            lengths = self.processes.gather(batch.inputs["input_ids"].shape[1])
            yield _padded(batch, max(lengths), self.encoder.processor.tokenizer.pad_token_id)


def _padded(batch: Batch, length: int, pad_token_id: int) -> Batch:
    """The batch padded on the right to ``length`` tokens; what has a value a token is padded with zeros."""
    ids = batch.inputs["input_ids"]
    if ids.shape[1] == length:
        return batch
    missing = (0, length - ids.shape[1])
    inputs = {
        name: F.pad(value, missing, value=pad_token_id if name == "input_ids" else 0)
        if value.shape == ids.shape
        else value
        for name, value in batch.inputs.items()
    }
    return replace(batch, inputs=inputs)


def require_examples_for_all_ranks(settings: OptimizationSettings, processes: Processes) -> None:
    """Finds out whether every process has a row of each batch.

    Raises:
        InputError: there are more processes than rows.
    """
    for name in ("audio_batch_size", "vl_batch_size"):
        size = getattr(settings, name)
        if size < processes.world_size:
            hint = "raise it, or start fewer processes: it counts the rows of all"
            expected = f"a row for each of {processes.world_size} processes"
            raise InputError(f"optimization.{name}", expected, str(size), hint)


def build_optimizer(model: SafeModel, settings: OptimizationSettings) -> torch.optim.AdamW:
    """AdamW with a learning rate for the projectors and one for the rest."""
    parameters = model.trainable_parameters()
    projectors = [p for name, p in parameters.items() if name.startswith("projectors.")]
    adapters = [p for name, p in parameters.items() if not name.startswith("projectors.")]
    groups = [
        {"params": projectors, "lr": settings.lr_projector, "peak_lr": settings.lr_projector},
        {"params": adapters, "lr": settings.lr_adapter, "peak_lr": settings.lr_adapter},
    ]
    return torch.optim.AdamW(
        groups, betas=(settings.adam_beta1, settings.adam_beta2), weight_decay=settings.weight_decay
    )


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
