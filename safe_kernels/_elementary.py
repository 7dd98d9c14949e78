"""Elementary functions that PyTorch lacks, exact near zero, in PyTorch operations."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_SERIES_LIMIT = 0.25
"""Where the exponential series is used."""

_SERIES_TERMS = {torch.float32: 6, torch.float64: 12}
"""Terms of (exp(x) - 1 - x) / x^2: what is left out is below 2e-8 and 1e-17, relative, up to the limit."""

_LOG_COSH_LIMIT = 20.0
"""From here on log(cosh(x)) is |x| - log 2 to the last bit of float64."""


def expm1_and_excess(x: Tensor, reach: float, scratch: Tensor) -> tuple[Tensor, Tensor]:
    r"""`exp(x) - 1` and `exp(x) - 1 - x`, each to a few roundings of its own size.

    With y = x cut off at the limits of the series and h = x - y,

        expm1(x) = expm1(y) + exp(y) expm1(h)        excess(x) = excess(y) + exp(y) expm1(h) - h

    Where x is small, h is exactly zero. Elsewhere exp(h) - 1 may cancel, but the result is not small.

    Args:
        x: float32 or float64, any shape.
        reach: a bound on |x|; up to the limit of the series it saves the second part.
        scratch: [3, *x.shape] of the same dtype. The results are its first two entries.
    """
    excess, near, beyond = scratch
    if reach <= _SERIES_LIMIT:
        _series(x, out=excess)
        return torch.add(excess, x, out=near), excess
    torch.clamp(x, -_SERIES_LIMIT, _SERIES_LIMIT, out=near)
    torch.sub(x, near, out=beyond)
    _series(near, out=excess)
    expm1 = near.add_(excess)
    excess.sub_(beyond)
    more = beyond.exp_().sub_(1.0)
    torch.addcmul(more, more, expm1, out=more)
    return expm1.add_(more), excess.add_(more)


def log_cosh(x: Tensor) -> Tensor:
    """`log(cosh(x))`, also where it is close to `x^2 / 2` and where cosh(x) overflows."""
    near = x.clamp(-_LOG_COSH_LIMIT, _LOG_COSH_LIMIT)
    beyond = (x - near).abs_()  # out there it grows as fast as |x|
    return near.sinh_().square_().log1p_().mul_(0.5).add_(beyond)


def log_mean_exp(x: Tensor, beta: float) -> Tensor:
    """`log(beta exp(-(1 - beta) x) + (1 - beta) exp(beta x))` for 0 < beta < 1, also where it is close to zero.

    The exponents' mean is zero, so beyond 1 it is the mean of their excesses over 1 + x; `log_cosh(x / 2)` is the case
    beta = 1/2.
    """
    alpha = 1.0 - beta
    near = x.clamp(-1.0, 1.0)
    scratch = x.new_empty((3, *x.shape))
    mean = expm1_and_excess(near * -alpha, 1.0, scratch)[1].mul(beta)
    mean.add_(expm1_and_excess(near * beta, 1.0, scratch)[1], alpha=alpha)
    size = x.abs()
    weight = torch.full_like(x, alpha).masked_fill_(x > 0, beta)
    far = torch.log1p(weight * torch.expm1(-size)).add_(weight * size)
    return torch.where(size < 1.0, mean.log1p_(), far)


def _series(x: Tensor, out: Tensor) -> None:
    """`exp(x) - 1 - x` for |x| up to the limit, by Horner's rule."""
    coefficients = [1.0 / math.factorial(power) for power in range(2, 2 + _SERIES_TERMS[x.dtype])]
    torch.mul(x, coefficients.pop(), out=out)
    while len(coefficients) > 1:
        out.add_(coefficients.pop()).mul_(x)
    out.add_(coefficients.pop()).mul_(x).mul_(x)
