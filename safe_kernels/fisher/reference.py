"""The definitions of the Fisher operations, in plain PyTorch: one sample or one tensor at a time, meant for float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def fisher_diagonal(inputs: Tensor, grad_outputs: Tensor) -> Tensor:
    """Sum over samples of the squared per-sample weight gradient: [dout, din] from [N, T, din] and [N, T, dout]."""
    total = grad_outputs.new_zeros((grad_outputs.shape[2], inputs.shape[2]))
    for activation, gradient in zip(inputs, grad_outputs, strict=True):
        total += (gradient.T @ activation).square()
    return total


def squared_gradient_ema(fisher: Tensor, grad: Tensor, decay: float) -> Tensor:
    """`decay * fisher + (1 - decay) * grad^2`."""
    return decay * fisher + (1.0 - decay) * grad.square()


def ewc_penalty(
    params: Sequence[Tensor], anchors: Sequence[Tensor], fishers: Sequence[Tensor], weight: float
) -> Tensor:
    """`weight/2 * sum fisher (param - anchor)^2` over all tensors; differentiable."""
    terms = [
        (fisher * (param - anchor).square()).sum()
        for param, anchor, fisher in zip(params, anchors, fishers, strict=True)
    ]
    return 0.5 * weight * torch.stack(terms).sum()
