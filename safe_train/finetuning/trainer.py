"""Retention for any ``transformers.Trainer``: a mixin adds the loss, a callback acts around the optimizer's step."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from safe_train.configs.retention_variants import RetentionVariantConfig
from safe_train.distributed.processes import Processes
from safe_train.errors import InputError
from safe_train.finetuning.fsdp import leave_trained_whole
from safe_train.finetuning.processes import ReplicatedCalibration, average_gradients
from safe_train.finetuning.rows import Collate, RetentionExamples, RowData, collator_for
from safe_train.finetuning.student import (
    RetentionLanguageModel,
    frozen_copy,
    learns_prompts,
    require_frozen_head,
    trained_linears,
)
from safe_train.io.tensor_files import save_tensors
from safe_train.retention import RetentionStack, build_mechanisms
from safe_train.retention.mechanism import RunLength, TrainingContext
from safe_train.retention.null_space import NullSpaceProjection
from safe_train.retention.registry import enabled_mechanisms
from safe_train.retention.settings import RetentionSettings
from safe_train.retention.stack import resolve_retention, resolve_variant
from safe_train.retention.task_update import MULTI, splits_by_task
from safe_train.variants import find_variant

logger = logging.getLogger(__name__)

ResumeFrom = str | os.PathLike[str] | bool | None
_MOST = 0.99  # share of what is trained that norms and biases leave to linear layers
RETENTION_STATE = "retention.safetensors"


@dataclass(frozen=True)
class Retention:
    """What a training run is to keep, and how.

    Attributes:
        protected: rows on which the model is to answer as before: token ids and labels, or whatever the trainer's own
            collator takes; or text that it does not take, as :class:`~safe_train.finetuning.chats.ChatCollator` reads
            it with the trainer's ``processing_class``.
        variant: name of a registered variant, or a variant of one's own.
        rows_per_step: retention examples that each optimizer step looks at, all processes together.
        settings: how the mechanisms work.
        seed: of the order of the rows and of the labels that the Fisher diagonal is computed with.
        collate: puts the rows together in place of the trainer's collator; returns ``labels`` beside what the model
            takes.
    """

    protected: RowData
    variant: str | RetentionVariantConfig = "full_retention"
    rows_per_step: int = 8
    settings: RetentionSettings = field(default_factory=RetentionSettings)
    seed: int = 0
    collate: Collate | None = None

    @property
    def resolved(self) -> RetentionVariantConfig:
        """The variant, with the null-space settings of ``settings``."""
        variant = find_variant(self.variant) if isinstance(self.variant, str) else self.variant
        return resolve_variant(variant, self.settings)


class RetentionCallback(TrainerCallback):
    """The mechanisms in a training of the ``Trainer``; :class:`RetentionMixin` adds it.

    Of several processes, each takes its share of a step's retention examples and calibrates on all of them.

    Attributes:
        retention: what is kept, and how.
        effective: what that amounts to in this training; None before it begins.
        stack: the mechanisms; None before the training begins.
        shards_base: whether FSDP holds the frozen weights in parts. It leaves the trained ones whole, and their
            gradients are those of a process's own rows until they are averaged here.
    """

    def __init__(
        self,
        retention: Retention,
        model: nn.Module,
        collate: Collate,
        processing_class: Any = None,
        fsdp_plugin: Any = None,
    ) -> None:
        """Takes the model before its training, of whose trained weights a copy is kept if a teacher is needed.

        Args:
            retention: what is kept, and how.
            model: the trainer's.
            collate: the trainer's collator.
            processing_class: the trainer's tokenizer or processor, for rows of text.
            fsdp_plugin: Accelerate's settings of FSDP, if the model is to be sharded; what is trained is left whole.

        Raises:
            InputError: the head is trained, the variant asks for linear layers of which none is trained, or the
                retention examples are not as the collator takes them.
            ValueError: there are no retention examples, or they have no labels.
        """
        self.retention = retention
        self.collate = retention.collate or collator_for(retention.protected, collate, processing_class)
        self.effective: dict[str, float | int] | None = None
        self.stack: RetentionStack | None = None
        self.resume_from: ResumeFrom = None
        self._variant = retention.resolved
        if retention.settings.teacher_cache:
            hint = "leave it out: here the teacher's states are computed at each step"
            raise InputError("retention.settings.teacher_cache", "false", "true", hint)
        require_frozen_head(model)
        _linears_for(self._variant, model)
        rows = RetentionExamples(retention.protected, self.collate, batch_size=1, seed=0, device=torch.device("cpu"))
        rows.require_readable()
        self.shards_base = fsdp_plugin is not None
        if self.shards_base:
            leave_trained_whole(fsdp_plugin, model, rows.batch(0))
        self._teacher: nn.Module | None = None
        needs_teacher = any(kind.needs_teacher for kind in enabled_mechanisms(self._variant))
        if needs_teacher and not self.shards_base and not learns_prompts(model):
            self._teacher = frozen_copy(model)
        self._gradients_of_step: int | None = None
        self._gradient_norm = 0.0
        self._skips = False
        self._loss = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **objects: Any
    ) -> None:
        """Builds the mechanisms on the weights that are trained; a resumed training takes up their state.

        Raises:
            InputError: the training is of a kind that cannot be split, by its processes or by its optimizer; or the
                checkpoint to resume from was written without retention.
        """
        model = objects["model"]
        # Out of Accelerate's wrapper, since the mechanisms read the optimizer's own state.
        optimizer = getattr(objects["optimizer"], "optimizer", objects["optimizer"])
        _require_split(self._variant, self.retention.settings, optimizer)
        self._processes = Processes(args.process_index, args.world_size, args.device)
        self._rows = RetentionExamples(
            self.retention.protected,
            self.collate,
            batch_size=self.retention.rows_per_step,
            seed=self.retention.seed,
            device=args.device,
            processes=self._processes,
        )
        if self._teacher is not None:
            self._teacher.to(args.device)
        length = RunLength(state.max_steps, self.retention.rows_per_step)
        self.effective = resolve_retention(self._variant, self.retention.settings, length)
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._step = state.global_step
        optimized = {id(parameter) for parameter in self._parameters}
        linears = _linears_for(self._variant, model)
        linears = {name: module for name, module in linears.items() if id(module.weight) in optimized}
        _tell_what_is_left_out(linears, self._parameters, self._variant)
        sample = self._rows.batch(0)
        student = RetentionLanguageModel(model, self._teacher, sample)
        one_by_one = not student.keeps_rows(linears, sample)
        context = TrainingContext(
            model=student,
            linears=linears,
            batches=lambda num_rows: self._rows.coming(self._step, num_rows, one_by_one=one_by_one),
            optimizer=optimizer,
            length=length,
            seed=self.retention.seed,
            collectives=ReplicatedCalibration(self._processes),
        )
        self.stack = build_mechanisms(self._variant, self.retention.settings, context)
        self._optimizer_was_restored = bool(optimizer.state)
        if state.global_step:
            self._restore(Path(args.output_dir or "."), args.device)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **objects: Any
    ) -> None:
        """Calibrates what is due."""
        self._step = state.global_step
        self._mechanisms.before_step(self._step, self._step * self.retention.rows_per_step)
        for parameter in self._parameters:  # what a calibration leaves on weights that are in no linear layer
            parameter.grad = None

    def after_task_backward(self, scale: float = 1.0) -> None:
        """When the gradients of a step are complete and still those of the task alone: adds the retention loss's.

        Args:
            scale: factor on the gradients, by which a training in float16 keeps small ones above zero.
        """
        stack = self._mechanisms
        if self.shards_base:
            average_gradients(self._processes, self._parameters)
        self._scale_gradients(1.0 / scale)
        stack.after_task_backward()
        if stack.adds_loss:
            batch = self._rows.batch(self._step)
            share = len(batch.labels) / self._processes.sum(len(batch.labels))
            with self._processes.summed_gradients(self._parameters):
                loss = stack.loss(batch) * share
                if loss.requires_grad:  # not where a vision tower alone is trained and no row has an image
                    loss.backward()
            self._loss = self._processes.mean(loss.item() / share, len(batch.labels))
        stack.after_retention_backward()
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        self._gradient_norm = torch.nn.utils.get_total_norm(gradients).item()
        # A scaler skips the step then, and lowers its factor: the mechanisms must not take it for one.
        self._skips = scale != 1.0 and not math.isfinite(self._gradient_norm)
        self._scale_gradients(scale)
        self._gradients_of_step = self._step

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **objects: Any
    ) -> None:
        """After the trainer has clipped the gradients.

        Raises:
            RuntimeError: the mechanisms have not seen the gradients of this step.
        """
        if self._gradients_of_step != state.global_step:
            raise RuntimeError("expected class MyTrainer(RetentionMixin, Trainer), got the callback without the mixin")
        limit = args.max_grad_norm
        clip_coefficient = min(1.0, limit / (self._gradient_norm + 1e-6)) if limit > 0 else 1.0
        if not self._skips:
            self._mechanisms.before_optimizer_step(clip_coefficient)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **objects: Any
    ) -> None:
        """Right after the optimizer has moved the weights."""
        if not self._skips:
            self._mechanisms.after_optimizer_step()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **objects: Any) -> None:
        """Writes the mechanisms' state into the trainer's checkpoint.

        Raises:
            InputError: the processes' trained weights are not the same.
        """
        trained = {str(number): parameter for number, parameter in enumerate(self._parameters)}
        self._processes.require_same("trained weights", trained)
        if not args.should_save:
            return
        folder = Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"
        tensors = {name: value.detach().cpu().contiguous() for name, value in self._mechanisms.state_dict().items()}
        save_tensors(tensors, folder / RETENTION_STATE)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **objects: Any
    ) -> None:
        """Warns of mechanisms that never acted."""
        inactive = self._mechanisms.inactive()
        for name in inactive if state.is_world_process_zero else ():
            logger.warning("%s is on and never had an effect; train longer, or give it more retention examples", name)

    def metrics(self) -> dict[str, float]:
        """What the mechanisms did in the last step, for the logs."""
        return {"retention_loss": self._loss} | self._mechanisms.metrics()

    @property
    def _mechanisms(self) -> RetentionStack:
        if self.stack is None:
            raise RuntimeError("expected a training that has begun, got none")
        return self.stack

    def _scale_gradients(self, factor: float) -> None:
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        if factor != 1.0 and gradients:
            MULTI._foreach_mul_(gradients, factor)

    def _restore(self, output: Path, device: torch.device) -> None:
        named = self.resume_from if isinstance(self.resume_from, (str, os.PathLike)) else None
        found = named or get_last_checkpoint(str(output))
        path = Path(found or output) / RETENTION_STATE
        if not path.is_file():
            hint = "resume from a checkpoint that was written with retention, or train anew"
            raise InputError(path, "the mechanisms' state beside the trainer's", "no such file", hint)
        state = {name: value.to(device) for name, value in load_file(path).items()}
        if not self._optimizer_was_restored:  # of a checkpoint with the model alone: AdamW begins anew, and so do they
            state = {name: value for name, value in state.items() if "/moment." not in name}
        try:
            self._mechanisms.load_state_dict(state)
        except KeyError as error:
            expected, got = f"the state of {self._variant.name} on these layers", f"no {error.args[0]}"
            raise InputError(path, expected, got, "resume with the variant and the adapter of before") from error


class RetentionMixin:
    """Put before a trainer, ``class MyTrainer(RetentionMixin, Trainer)``, it keeps what ``retention`` names.

    The retention examples are looked at once an optimizer step, behind the last backward pass of its micro-batches and
    before the trainer clips. ``loss`` in the logs stays the task's own; what the mechanisms did is logged beside it.
    Mixed precision leaves the retention examples in the precision of the weights.
    """

    def __init__(self, *args: Any, retention: Retention, **options: Any) -> None:
        """Takes what the trainer takes, and ``retention``.

        Raises:
            InputError: as :class:`RetentionCallback`; or the training is of a kind in which no process has the whole
                gradients of a step.
            ValueError: as :class:`RetentionCallback`.
        """
        super().__init__(*args, **options)
        trainer: Any = self
        require_whole_gradients(trainer.args, trainer.accelerator.distributed_type.value)
        self.retention = RetentionCallback(
            retention,
            trainer.model,
            trainer.data_collator,
            getattr(trainer, "processing_class", None),
            getattr(trainer.accelerator.state, "fsdp_plugin", None),
        )
        trainer.add_callback(self.retention)

    def train(
        self, resume_from_checkpoint: str | os.PathLike[str] | bool | None = None, *args: Any, **options: Any
    ) -> Any:
        """Trains; a resumed training takes up the mechanisms' state too."""
        self.retention.resume_from = resume_from_checkpoint
        return super().train(resume_from_checkpoint, *args, **options)  # type: ignore[misc]

    def training_step(self, *args: Any, **options: Any) -> Tensor:
        """A micro-batch's forward and backward pass, and behind the last one of a step the retention's."""
        loss = super().training_step(*args, **options)  # type: ignore[misc]
        trainer: Any = self
        if trainer.accelerator.sync_gradients:
            scaler = trainer.accelerator.scaler
            self.retention.after_task_backward(1.0 if scaler is None else scaler.get_scale())
        return loss

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """Logs; beside a training loss, what the mechanisms did in the last step."""
        observed = self.retention.metrics() if "loss" in logs else {}
        super().log(logs | observed, *args, **options)  # type: ignore[misc]


def _linears_for(variant: RetentionVariantConfig, model: nn.Module) -> dict[str, nn.Linear]:
    """The trained linear layers, which some mechanisms act on.

    Raises:
        InputError: the variant switches one of them on, and there are none, or their biases are trained too.
    """
    if not any(kind.needs_linears for kind in enabled_mechanisms(variant)):
        return {}
    found = {} if learns_prompts(model) else trained_linears(model)  # a prompt is no row's own, and has no gradient
    expected, hint = (
        f"trained torch.nn.Linear layers, which {variant.name} acts on",
        "choose the variant soft_retention",
    )
    if not found:
        raise InputError("model", expected, "none", f"{hint}, or an adapter such as LoRA")
    for name, module in found.items():
        if module.bias is not None and module.bias.requires_grad:
            raise InputError("model", expected, f"a trained bias in {name}", f"{hint}, or freeze the biases")
    return found


def _tell_what_is_left_out(
    linears: Mapping[str, nn.Linear], parameters: Sequence[Tensor], variant: RetentionVariantConfig
) -> None:
    """Warns of trained weights that the mechanisms on linear layers pass by, such as norms and fused experts."""
    inside, whole = sum(m.weight.numel() for m in linears.values()), sum(p.numel() for p in parameters)
    if linears and inside < _MOST * whole:
        logger.warning(
            "%s: Fisher and null space act on linear layers, which hold %.0f %% of what is trained",
            variant.name, 100 * inside / whole,
        )  # fmt: skip


def _require_split(
    variant: RetentionVariantConfig, settings: RetentionSettings, optimizer: torch.optim.Optimizer
) -> None:
    """The null space is kept by the task's part of a step, which not every optimizer's steps can be split into.

    Raises:
        InputError: the optimizer's cannot.
    """
    uses_part = NullSpaceProjection in enabled_mechanisms(variant) and settings.null_space_target == "task_update"
    if uses_part and not splits_by_task(optimizer):
        expected = "torch.optim.AdamW without amsgrad or maximize, whose steps split into the task's part and the rest"
        hint = 'project the whole step: Retention(..., settings=RetentionSettings(null_space_target="update"))'
        raise InputError("optimizer", expected, type(optimizer).__name__, hint)


def require_whole_gradients(args: TrainingArguments, distributed_type: str = "NO") -> None:
    """The mechanisms split a step's gradient, which only a process that has it whole can do.

    Args:
        args: of the trainer.
        distributed_type: Accelerate's word for how the processes work together; also told by ``accelerate launch``.

    Raises:
        InputError: several GPUs in one process, gradients of which each process holds a part, or weights that are
            moved during the backward pass.
    """
    optimizer = str(args.optim).removeprefix("OptimizerNames.").lower()
    found = {
        "n_gpu": (args.n_gpu > 1, f"{args.n_gpu} GPUs in one process"),
        "deepspeed": (args.deepspeed or distributed_type == "DEEPSPEED", "DeepSpeed, which shards gradients"),
        "optim": (optimizer.endswith(("layerwise", "lomo")), f"{optimizer}, which steps within the backward pass"),
    }
    for name, (is_so, got) in found.items():
        if is_so:
            expected = "whole gradients in every process before the optimizer's step"
            hint = "take another optimizer" if name == "optim" else "start one process a GPU, by torchrun, with DDP"
            raise InputError(f"TrainingArguments.{name}", expected, got, hint)
