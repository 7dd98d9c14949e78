"""The definition of the Fisher diagonal, in plain PyTorch: one sample at a time, meant for float64."""

from __future__ import annotations

from torch import Tensor


def fisher_diagonal(inputs: Tensor, grad_outputs: Tensor) -> Tensor:
    """Sum over samples of the squared per-sample weight gradient: [dout, din] from [N, T, din] and [N, T, dout]."""
    total = grad_outputs.new_zeros((grad_outputs.shape[2], inputs.shape[2]))
    for activation, gradient in zip(inputs, grad_outputs, strict=True):
        total += (gradient.T @ activation).square()
    return total
