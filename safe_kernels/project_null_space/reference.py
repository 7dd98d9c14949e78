"""The definition of the null-space projection, in plain PyTorch, meant for float64."""

from __future__ import annotations

from torch import Tensor


def projected(tensor: Tensor, basis: Tensor, one_sided: bool = False) -> Tensor:
    """`X - (X U) U^T` for X seen as [-1, d] and U [d, r]; one-sided keeps the negative coefficients in X."""
    rows = tensor.reshape(-1, basis.shape[0])
    coefficients = rows @ basis
    if one_sided:
        coefficients = coefficients.clamp_min(0.0)
    return (rows - coefficients @ basis.T).reshape(tensor.shape)
