"""The null-space projection in PyTorch operations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from safe_kernels.project_null_space.stored_basis import StoredBasis

_BLOCK_ELEMENTS = 2**20
"""Elements projected at a time where a wider copy is needed: 4 MiB of float32."""

_ROWS_FOR_A_COPY = 16
"""From here on it pays to copy a basis so that its vectors are contiguous: on a CPU, X U then takes half the time."""


def project_null_space_(tensors: Sequence[Tensor], bases: Sequence[StoredBasis], one_sided: bool) -> None:
    """Project every tensor, in place; in float32 at least, also under autocast."""
    if not tensors:
        return
    with torch.autocast(tensors[0].device.type, enabled=False):
        for tensor, basis in zip(tensors, bases, strict=True):
            if basis.vectors.shape[1] == 0 or tensor.numel() == 0:
                continue
            packed = tensor if tensor.is_contiguous() else tensor.contiguous()
            if basis.flat:
                _project_vector_(packed.view(-1), basis, one_sided)
            else:
                _project_rows_(packed.view(-1, basis.vectors.shape[0]), basis.vectors, one_sided)
            if packed is not tensor:
                tensor.copy_(packed)


def _project_rows_(rows: Tensor, basis: Tensor, one_sided: bool) -> None:
    """Coefficients and their subtraction are in float32 at least, whatever the tensor's dtype."""
    dtype = _dtype(rows, basis)
    basis = basis.to(dtype)
    if rows.shape[0] >= _ROWS_FOR_A_COPY:
        basis = basis.t().contiguous().t()
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


def _project_vector_(vector: Tensor, basis: StoredBasis, one_sided: bool) -> None:
    """The same for one vector; what is not of the wider dtype is converted block by block."""
    vectors, dtype = basis.vectors, _dtype(vector, basis.vectors)
    plain = vector.dtype == vectors.dtype == dtype
    step = vector.numel() if plain else max(1, _BLOCK_ELEMENTS // vectors.shape[1])
    starts = range(0, vector.numel(), step)
    coefficients = torch.zeros(vectors.shape[1], dtype=dtype, device=vector.device)
    for start in starts:
        block = vectors[start : start + step].to(dtype)
        coefficients.addmv_(block.t(), vector[start : start + step].to(dtype))
    if basis.correction is not None:
        coefficients = basis.correction.to(dtype) @ coefficients
    if one_sided:
        coefficients.clamp_min_(0.0)
    for start in starts:
        part = vector[start : start + step]
        wide = part.to(dtype)
        wide.addmv_(vectors[start : start + step].to(dtype), coefficients, alpha=-1.0)
        if wide is not part:
            part.copy_(wide)


def _dtype(tensor: Tensor, basis: Tensor) -> torch.dtype:
    return torch.float64 if torch.float64 in (tensor.dtype, basis.dtype) else torch.float32
