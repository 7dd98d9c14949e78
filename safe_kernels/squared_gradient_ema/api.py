"""Exponential moving average of squared gradients: an estimate of the Fisher diagonal that costs no extra pass."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from safe_kernels._checks import check_beside, check_floating, check_one_device, check_same_length
from safe_kernels._dtypes import WIDE_DTYPES
from safe_kernels.squared_gradient_ema import ops


def squared_gradient_ema_(fishers: Sequence[Tensor], grads: Sequence[Tensor], decay: float) -> None:
    """Exponential moving average of squared gradients, for many tensors: `F <- decay F + (1 - decay) g^2`.

    `SquaredGradientEmaPlan` does the same with a fraction of the time on the host, for Fishers that stay.

    Args:
        fishers: running averages, float32 or float64; changed in place.
        grads: gradients of the same shapes, any floating dtype.
        decay: share of the old average that is kept, in [0, 1].

    Raises:
        TypeError: a dtype is not supported.
        ValueError: numbers of tensors, a shape or device, or `decay` does not fit, or two Fishers share memory.
    """
    check_decay(decay)
    check_tensors(fishers, grads)
    if fishers:
        ops.squared_gradient_ema(list(fishers), [grad.detach() for grad in grads], float(decay))


def check_tensors(fishers: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
    """Raise unless there is a gradient of its shape for each Fisher."""
    check_same_length("grads", grads, "fishers", fishers)
    for index, (fisher, grad) in enumerate(zip(fishers, grads, strict=True)):
        check_floating(f"fishers[{index}]", fisher, WIDE_DTYPES)
        check_beside(f"grads[{index}]", grad, f"fishers[{index}]", fisher)
    check_one_device("fishers", fishers)


def check_decay(decay: float) -> None:
    """Raise `ValueError` unless the share that is kept lies between nothing and all."""
    if not 0.0 <= decay <= 1.0:
        raise ValueError(f"decay: expected a number in [0, 1], got {decay}")
