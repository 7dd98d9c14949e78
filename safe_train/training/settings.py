"""Settings of the optimizer and its schedules, and of experiment trackers."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from safe_train.settings import Section


class OptimizationSettings(Section):
    """The optimizer and its schedule."""

    earlier_names: ClassVar = {
        "beta1": "adam_beta1",
        "beta2": "adam_beta2",
        "clip_norm": "max_grad_norm",
        "gate_warmup_share": "gate_warmup_ratio",
        "warmup_share": "warmup_ratio",
    }

    max_steps: int = Field(default=400, ge=1)
    """Optimizer steps."""
    audio_batch_size: int = Field(default=16, ge=1)
    """Audio examples per micro-batch."""
    vl_batch_size: int = Field(default=16, ge=1)
    """Retention examples per micro-batch, VL and text-only, each with an audio clip that has nothing to do with it."""
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """Micro-batches per optimizer step."""
    lr_projector: float = Field(default=4e-3, gt=0.0)
    """Peak learning rate of the projectors; if it is not given, times 128 over the width of another base."""
    lr_adapter: float = Field(default=4e-3, gt=0.0)
    """Peak learning rate of the fusions and of LoRA; if it is not given, times 128 over the width of another base."""
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the task loss that is the cross-entropy with the uniform distribution over the vocabulary, as in
    ``torch.nn.functional.cross_entropy``; the retention loss has none."""
    weight_decay: float = Field(default=0.01, ge=0.0)
    """Decoupled weight decay."""
    adam_beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    """AdamW's decay of the first moment."""
    adam_beta2: float = Field(default=0.98, ge=0.0, lt=1.0)
    """AdamW's decay of the second moment."""
    warmup_ratio: float = Field(default=0.05, ge=0.0, le=1.0)
    """Fraction of the steps over which the learning rate rises, before its cosine decay."""
    gate_warmup_ratio: float = Field(default=0.1, ge=0.0, le=1.0)
    """Fraction of the steps over which the gate opens from 0 to 1."""
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    """Largest norm of the total gradient."""


class TrackingSettings(Section):
    """Experiment trackers."""

    trackers: tuple[str, ...] = ()
    """Experiment trackers that a run reports to beside its own files, by Accelerate's names: ``tensorboard``,
    ``wandb``, ``trackio``, ``mlflow`` and others; each needs its package."""
    project: str = Field(default="safe", min_length=1)
    """Project, or experiment, of the trackers that have such a thing."""
