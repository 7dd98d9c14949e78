"""Settings of the retention mechanisms."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from safe_train.settings import Section


class RetentionSettings(Section):
    """How the mechanisms of the variant work; the weights themselves are the variant's."""

    earlier_names: ClassVar = {"fisher_at": "fisher_start_ratio", "null_space_projects": "null_space_target"}
    earlier_values: ClassVar = {"null_space_target": {"audio_gradient": "task_gradient", "audio_update": "task_update"}}

    retention_scale: float = Field(default=1.0, gt=0.0)
    """Factor on the variant's retention weight, for scales at which the registered weights are weak or strong."""
    divergence: Literal["forward", "reverse", "jsd"] = "forward"
    """Divergence of the student from the bypass."""
    temperature: float = Field(default=1.0, gt=0.0)
    """Temperature of the divergence."""
    fisher_trace: float = Field(default=1000.0, gt=0.0)
    """Sum that the Fisher diagonal is scaled to, since its raw size varies between seeds by orders of magnitude."""
    fisher_samples: int = Field(default=256, ge=1)
    """Retention examples over which the Fisher diagonal is averaged."""
    fisher_labels: Literal["true", "empirical"] = "true"
    """Labels drawn from the model, or those of the data."""
    fisher_start_ratio: float = Field(default=0.25, ge=0.0, lt=1.0)
    """Fraction of the steps after which the Fisher diagonal is computed; at step 0 most of it is zero."""
    teacher_cache: bool = False
    """Compute the teacher's states of a retention example once, alone, and keep them; pays from the second epoch on."""
    null_space_subspace: Literal["gradient", "activation"] = "gradient"
    """Subspace of the per-sample gradients of retention examples, or of the layers' inputs on them."""
    null_space_target: Literal["task_gradient", "total_gradient", "task_update", "update"] = "task_update"
    """What is kept out of the subspace: the gradient of the task loss or of the total loss, the part of the update that
    stems from the task loss, or the whole update."""
    null_space_one_sided: bool = True
    """Remove only what would raise the loss on retention examples; needs the gradient subspace."""
    null_space_energy: float | None = Field(default=None, gt=0.0, le=1.0)
    """Fraction of the energy at which the rank is cut; None keeps the variant's rank."""
    null_space_memory_gib: float | None = Field(default=None, gt=0.0)
    """Memory in GiB for what gradient subspaces are computed from; weights that do not fit wait for a further pass over
    the retention examples, with the same result. None for twice what the bases take, at least 1."""
    null_space_rank: int | None = Field(default=None, ge=1)
    """Dimensions of the subspace; None keeps the variant's."""
    null_space_min_samples: int | None = Field(default=None, ge=1)
    """Retention examples before the subspace is first computed; None keeps the variant's."""
    null_space_refresh_interval: int | None = Field(default=None, ge=1)
    """Retention examples between two computations of the subspace; None keeps the variant's."""

    @model_validator(mode="after")
    def _one_sided_needs_gradients(self) -> RetentionSettings:
        if self.null_space_one_sided and self.null_space_subspace == "activation":
            raise ValueError("null_space_one_sided needs null_space_subspace=gradient: activations have no sign")
        return self
