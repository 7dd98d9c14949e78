"""The null-space projection as a PyTorch custom operator that changes its tensors in place."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from safe_kernels._backend import choose_backend
from safe_kernels._flops import flop_formula
from safe_kernels._tables import addresses, refuse_overlaps
from safe_kernels.project_null_space import torch_impl
from safe_kernels.project_null_space.stored_basis import StoredBasis, keep_layout


@torch.library.custom_op("safe_kernels::project_null_space_", mutates_args=("tensors",))
def project_null_space(tensors: list[Tensor], bases: list[Tensor], one_sided: bool) -> None:
    """`X -= (X U) U^T` for every pair of a tensor and its basis."""
    refuse_overlaps("tensors", tensors)
    stored = [
        keep_layout(basis, tensor.numel() == basis.shape[0]) for tensor, basis in zip(tensors, bases, strict=True)
    ]
    prepare(tensors, stored, one_sided)(tensors, addresses(tensors))


@project_null_space.register_fake
def _(tensors: list[Tensor], bases: list[Tensor], one_sided: bool) -> None:
    return None


@flop_formula(torch.ops.safe_kernels.project_null_space_)
def count_flops(tensors: list[torch.Size], bases: list[torch.Size], one_sided: bool, **_: Any) -> int:
    """Two products with the basis, coefficients and component: `4 numel r` for each tensor."""
    return sum(4 * math.prod(tensor) * basis[1] for tensor, basis in zip(tensors, bases, strict=True))


def prepare(
    tensors: Sequence[Tensor], bases: Sequence[StoredBasis], one_sided: bool
) -> Callable[[Sequence[Tensor], list[int]], None]:
    """The projection of these tensors, and of others of the same shapes, dtypes and strides, given their addresses."""
    if tensors[0].is_meta:  # where costs are counted: one operator, as it is one launch or three on a GPU
        return lambda tensors, _: project_null_space(list(tensors), [basis.vectors for basis in bases], one_sided)
    if choose_backend(*tensors, *(basis.vectors for basis in bases)) == "triton":
        from safe_kernels.project_null_space import triton_impl

        return triton_impl.ProjectionLaunch(tensors, bases, one_sided)
    return lambda tensors, _: torch_impl.project_null_space_(tensors, bases, one_sided)
