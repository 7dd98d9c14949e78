"""The null-space projection: updates stay out of protected subspaces."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from safe_kernels._checks import check_floating, check_one_device, check_rank, check_same_device, check_same_length
from safe_kernels._dtypes import WIDE_DTYPES
from safe_kernels.project_null_space import ops

_ORTHONORMAL_TOLERANCE = 1e-4
"""Largest entry of |U^T U - I| that counts as orthonormal: float32 rounding stays below 1e-5 at a million rows."""


def project_null_space_(
    tensors: Sequence[Tensor],
    bases: Sequence[Tensor],
    *,
    one_sided: bool = False,
    check_orthonormal: bool = False,
) -> None:
    r"""Remove from many tensors what lies in protected subspaces, in place: `X <- X - (X U) U^T`.

    A tensor X is a gradient or an update (theta_new - theta_old). The form follows from the basis:

    - row form, U [d, r] with d = X.shape[-1]: every row of X, seen as [-1, d], is projected. With U spanning a layer's
      inputs a, the layer's outputs on those inputs do not move, since X a = 0.
    - flat form, U [d, r] with d = X.numel(): X is projected as one vector.

    Coefficients are formed in float32 (float64 for float64). A basis of rank 0 leaves its tensor bit for bit.

    Args:
        tensors: any shapes, strides and floating dtypes; changed in place.
        bases: one for each tensor, orthonormal columns, float32 or float64.
        one_sided: remove only positive coefficients, that is only what points along the (oriented) basis vectors.
        check_orthonormal: measure U^T U; makes the host wait for a GPU.

    Raises:
        TypeError: a dtype is not supported.
        ValueError: numbers of tensors, a shape or device does not fit, a rank exceeds its dimension, two tensors share
            memory, or a basis is not orthonormal (on request).
    """
    check_projection(tensors, bases, check_orthonormal)
    if tensors:
        detached = [tensor.detach() for tensor in tensors]
        ops.project_null_space(detached, [basis.detach() for basis in bases], one_sided)


def check_projection(tensors: Sequence[Tensor], bases: Sequence[Tensor], check_orthonormal: bool) -> None:
    """Raise unless the arguments of a projection fit together."""
    check_same_length("bases", bases, "tensors", tensors)
    for index, (tensor, basis) in enumerate(zip(tensors, bases, strict=True)):
        check_floating(f"tensors[{index}]", tensor)
        _check_basis(f"bases[{index}]", basis, f"tensors[{index}]", tensor)
        if check_orthonormal:
            _check_orthonormal(f"bases[{index}]", basis)
    check_one_device("tensors", tensors)


def _check_basis(name: str, basis: Tensor, tensor_name: str, tensor: Tensor) -> None:
    check_floating(name, basis, WIDE_DTYPES)
    check_rank(name, basis, "d, r")
    check_same_device(name, basis, tensor_name, tensor)
    dimension, rank = basis.shape
    rows = tensor.shape[-1] if tensor.dim() else 1
    if dimension not in (rows, tensor.numel()):
        raise ValueError(
            f"{name}: expected {rows} rows (row form) or {tensor.numel()} rows (flat form) for {tensor_name} of shape "
            f"{list(tensor.shape)}, got shape {list(basis.shape)}"
        )
    if rank > dimension:
        raise ValueError(f"{name}: expected rank at most its dimension {dimension}, got rank {rank}")


def _check_orthonormal(name: str, basis: Tensor) -> None:
    wide = basis.double()
    error = wide.t() @ wide - torch.eye(basis.shape[1], dtype=torch.float64, device=basis.device)
    worst = float(torch.linalg.vector_norm(error, ord=float("inf"))) if basis.shape[1] else 0.0
    if not worst <= _ORTHONORMAL_TOLERANCE:
        raise ValueError(
            f"{name}: expected orthonormal columns (entries of U^T U - I at most {_ORTHONORMAL_TOLERANCE}), "
            f"got {worst:.3g}; torch.linalg.qr gives an orthonormal basis of the same subspace"
        )
