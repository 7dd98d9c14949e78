"""Retention for any ``transformers.Trainer``: a mixin adds the loss, a callback acts around the optimizer's step."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from safe_train.configs.retention_variants import RetentionVariantConfig
from safe_train.errors import InputError
from safe_train.huggingface.retention_examples import (
    RetentionCausalLM,
    RetentionExamples,
    RowData,
    learns_prompts,
    require_frozen_head,
    trained_linears,
)
from safe_train.io.tensor_files import save_tensors
from safe_train.retention import RetentionStack, build_mechanisms
from safe_train.retention.mechanism import RunLength, TrainingContext
from safe_train.retention.registry import enabled_mechanisms
from safe_train.retention.settings import RetentionSettings
from safe_train.retention.stack import resolve_retention, resolve_variant
from safe_train.variants import find_variant

logger = logging.getLogger(__name__)

RETENTION_STATE = "retention.safetensors"


@dataclass(frozen=True)
class Retention:
    """What a training run is to keep, and how.

    Attributes:
        protected: rows on which the model is to answer as before, in the form of the training data: token ids and
            labels, for the trainer's own collator.
        variant: name of a registered variant, or a variant of one's own.
        rows_per_step: protected rows that each optimizer step looks at.
        settings: how the mechanisms work.
        seed: of the order of the rows and of the labels that the Fisher diagonal is computed with.
    """

    protected: RowData
    variant: str | RetentionVariantConfig = "full_retention"
    rows_per_step: int = 8
    settings: RetentionSettings = field(default_factory=RetentionSettings)
    seed: int = 0

    @property
    def resolved(self) -> RetentionVariantConfig:
        """The variant, with the null-space settings of ``settings``."""
        variant = find_variant(self.variant) if isinstance(self.variant, str) else self.variant
        return resolve_variant(variant, self.settings)


class RetentionCallback(TrainerCallback):
    """The mechanisms in a training of the ``Trainer``; :class:`RetentionMixin` adds it.

    Attributes:
        retention: what is kept, and how.
        effective: what that amounts to in this training; None before it begins.
        stack: the mechanisms; None before the training begins.
    """

    def __init__(
        self,
        retention: Retention,
        model: nn.Module,
        collate: Callable[[list[Any]], Mapping[str, Any]],
    ) -> None:
        """Takes the model before its training, of which a copy is kept if a teacher is needed and it has no adapter.

        Raises:
            InputError: the head is trained, the variant asks for linear layers of which none is trained, or the
                protected rows are not as the collator takes them.
            ValueError: there are no protected rows, or they have no labels.
        """
        self.retention, self.collate = retention, collate
        self.effective: dict[str, float | int] | None = None
        self.stack: RetentionStack | None = None
        self.resume_from: bool | str | None = None
        self._variant = retention.resolved
        require_frozen_head(model)
        _linears_for(self._variant, model)
        RetentionExamples(retention.protected, collate, batch_size=1, seed=0, device=torch.device("cpu"))
        self._teacher: nn.Module | None = None
        if any(kind.needs_teacher for kind in enabled_mechanisms(self._variant)) and not isinstance(model, PeftModel):
            self._teacher = copy.deepcopy(model).requires_grad_(False).eval()
        self._gradients_of_step: int | None = None
        self._gradient_norm = 0.0
        self._loss = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **objects: Any
    ) -> None:
        """Builds the mechanisms on the weights that are trained; a resumed training takes up their state."""
        _require_one_process(args)
        model = objects["model"]
        # Out of Accelerate's wrapper, since the mechanisms read the optimizer's own state.
        optimizer = getattr(objects["optimizer"], "optimizer", objects["optimizer"])
        self._rows = RetentionExamples(
            self.retention.protected,
            self.collate,
            batch_size=self.retention.rows_per_step,
            seed=self.retention.seed,
            device=args.device,
        )
        if self._teacher is not None:
            self._teacher.to(args.device)
        length = RunLength(state.max_steps, self.retention.rows_per_step)
        self.effective = resolve_retention(self._variant, self.retention.settings, length)
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._step = state.global_step
        context = TrainingContext(
            model=RetentionCausalLM(model, self._teacher, self._rows.batch(0)),
            linears=_linears_for(self._variant, model),
            batches=lambda num_rows: self._rows.coming(self._step, num_rows),
            optimizer=optimizer,
            length=length,
            seed=self.retention.seed,
        )
        self.stack = build_mechanisms(self._variant, self.retention.settings, context)
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

    def after_task_backward(self) -> None:
        """When the gradients of a step are complete and still those of the task alone: adds the retention loss's."""
        stack = self._mechanisms
        stack.after_task_backward()
        if stack.adds_loss:
            loss = stack.loss(self._rows.batch(self._step))
            loss.backward()
            self._loss = loss.item()
        stack.after_retention_backward()
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        self._gradient_norm = torch.nn.utils.get_total_norm(gradients).item()
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
        self._mechanisms.before_optimizer_step(min(1.0, limit / (self._gradient_norm + 1e-6)) if limit > 0 else 1.0)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **objects: Any
    ) -> None:
        """Right after the optimizer has moved the weights."""
        self._mechanisms.after_optimizer_step()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **objects: Any) -> None:
        """Writes the mechanisms' state into the trainer's checkpoint."""
        folder = Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"
        tensors = {name: value.detach().cpu().contiguous() for name, value in self._mechanisms.state_dict().items()}
        save_tensors(tensors, folder / RETENTION_STATE)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **objects: Any
    ) -> None:
        """Warns of mechanisms that never acted."""
        for name in self._mechanisms.inactive():
            logger.warning("%s is on and never had an effect; train for longer, or give it more protected rows", name)

    def metrics(self) -> dict[str, float]:
        """What the mechanisms did in the last step, for the logs."""
        return {"retention_loss": self._loss} | self._mechanisms.metrics()

    @property
    def _mechanisms(self) -> RetentionStack:
        if self.stack is None:
            raise RuntimeError("expected a training that has begun, got none")
        return self.stack

    def _restore(self, output: Path, device: torch.device) -> None:
        found = self.resume_from if isinstance(self.resume_from, str) else get_last_checkpoint(str(output))
        path = Path(found or output) / RETENTION_STATE
        if not path.is_file():
            hint = "resume from a checkpoint that was written with retention, or train anew"
            raise InputError(path, "the mechanisms' state beside the trainer's", "no such file", hint)
        self._mechanisms.load_state_dict(load_file(path, device=str(device)))


class RetentionMixin:
    """Put before a trainer, ``class MyTrainer(RetentionMixin, Trainer)``, it keeps what ``retention`` names.

    The protected rows are looked at once an optimizer step, behind the last backward pass of its micro-batches and
    before the trainer clips. ``loss`` in the logs stays the task's own; what the mechanisms did is logged beside it.
    One process; mixed precision by bfloat16 leaves the protected rows in the precision of the weights.
    """

    def __init__(self, *args: Any, retention: Retention, **options: Any) -> None:
        """Takes what the trainer takes, and ``retention``."""
        super().__init__(*args, **options)
        trainer: Any = self
        _require_one_process(trainer.args)
        self.retention = RetentionCallback(retention, trainer.model, trainer.data_collator)
        trainer.add_callback(self.retention)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **options: Any) -> Any:
        """Trains; a resumed training takes up the mechanisms' state too."""
        self.retention.resume_from = resume_from_checkpoint
        return super().train(resume_from_checkpoint, *args, **options)  # type: ignore[misc]

    def training_step(self, *args: Any, **options: Any) -> Tensor:
        """A micro-batch's forward and backward pass, and behind the last one of a step the retention's."""
        loss = super().training_step(*args, **options)  # type: ignore[misc]
        trainer: Any = self
        if trainer.accelerator.sync_gradients:
            self.retention.after_task_backward()
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


def _require_one_process(args: TrainingArguments) -> None:
    """The mechanisms split a step's gradient, which only the process that has it whole can do.

    Raises:
        InputError: several processes or GPUs, a sharded model, or float16, whose gradients are scaled.
    """
    found = {
        "world_size": args.world_size > 1 and f"{args.world_size} processes",
        "n_gpu": args.n_gpu > 1 and f"{args.n_gpu} GPUs in one process",
        "deepspeed": bool(args.deepspeed) and "DeepSpeed",
        "fsdp": bool(args.fsdp) and "FSDP",
        "fp16": args.fp16 and "float16",
    }
    for name, got in found.items():
        if got:
            hint = "train with one process on one device, in float32 or bfloat16"
            raise InputError(f"TrainingArguments.{name}", "one process in float32 or bfloat16", got, hint)
