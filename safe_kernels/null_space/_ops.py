"""The null-space projection as a PyTorch custom operator that changes its tensors in place."""

from __future__ import annotations

import torch
from torch import Tensor

from safe_kernels._backend import choose_backend
from safe_kernels.null_space import fallback


@torch.library.custom_op("safe_kernels::project_null_space_", mutates_args=("tensors",))
def project_null_space(tensors: list[Tensor], bases: list[Tensor], one_sided: bool) -> None:
    """`X -= (X U) U^T` for every pair of a tensor and its basis."""
    if choose_backend(*tensors, *bases) == "triton":
        from safe_kernels.null_space import triton

        triton.project_null_space_(tensors, bases, one_sided)
    else:
        fallback.project_null_space_(tensors, bases, one_sided)


@project_null_space.register_fake
def _(tensors: list[Tensor], bases: list[Tensor], one_sided: bool) -> None:
    return None
