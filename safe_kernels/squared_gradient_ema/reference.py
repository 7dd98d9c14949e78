"""The definition of the squared-gradient average, in plain PyTorch: one tensor at a time, meant for float64."""

from __future__ import annotations

from torch import Tensor


def squared_gradient_ema(fisher: Tensor, grad: Tensor, decay: float) -> Tensor:
    """`decay * fisher + (1 - decay) * grad^2`."""
    return decay * fisher + (1.0 - decay) * grad.square()
