"""The null-space projection in PyTorch operations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_BLOCK_ELEMENTS = 2**20
"""Elements projected at a time where a wider copy is needed: 4 MiB of float32."""


def project_null_space_(tensors: Sequence[Tensor], bases: Sequence[Tensor], one_sided: bool) -> None:
    """Project every tensor, in place."""
    for tensor, basis in zip(tensors, bases, strict=True):
        if basis.shape[1] == 0 or tensor.numel() == 0:
            continue
        if tensor.is_contiguous():
            _project_rows_(tensor.view(-1, basis.shape[0]), basis, one_sided)
        else:
            packed = tensor.contiguous()
            _project_rows_(packed.view(-1, basis.shape[0]), basis, one_sided)
            tensor.copy_(packed)


def _project_rows_(rows: Tensor, basis: Tensor, one_sided: bool) -> None:
    """Coefficients and their subtraction are in float32 at least, whatever the tensor's dtype."""
    dtype = torch.float64 if torch.float64 in (rows.dtype, basis.dtype) else torch.float32
    basis = basis.to(dtype)
    step = max(1, _BLOCK_ELEMENTS // rows.shape[1])
    for start in range(0, rows.shape[0], step):
        block = rows[start : start + step]
        wide = block.to(dtype)
        coefficients = wide @ basis
        if one_sided:
            coefficients.clamp_min_(0.0)
        wide.addmm_(coefficients, basis.t(), alpha=-1.0)
        if wide is not block:
            block.copy_(wide)
