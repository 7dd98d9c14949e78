r"""The divergences in PyTorch operations, from the teacher's logits z and the *difference* d = student - teacher.

Rounding is the enemy: a retained model's student and teacher differ by 1e-3 in logits of size 10, so their float32
log-probabilities agree in most digits and the difference of two sums of them is noise. Everything here is a function of
d instead. With p = softmax(z), q the student's distribution, mu = sum p d and delta = d - mu:

    K = E_p[expm1(delta) - delta]       KL(p||q) = log1p(K)       (every term is >= 0, nothing cancels)
    u = delta - KL(p||q) = log(q/p)     q - p = p expm1(u)        KL(q||p) = E_p[(1 + expm1(u)) u - expm1(u)]

The Jensen-Shannon terms are log(m/p) = log1p(expm1(u)/2) and log(q/m) = -log1p(expm1(-u)/2).

Far apart (some delta above 40, where p may have underflowed while q has not) the same quantities are taken from
log-probabilities, which is exact there and cannot overflow.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

_EXP_LIMIT = 40.0
"""Up to here p expm1(u) is right even if p has underflowed: q is then below exp(-47)."""

_SERIES_LIMIT = 0.01
"""Up to here three terms of the exponential series are exact to 2e-8, relative."""

_SLICE_ELEMENTS = 2**19
"""Elements worked on at a time: 2 MiB of float32, so that the temporaries stay in the processor's cache.

Not less: an operation is shared out over the threads, and waking them takes as long as 2**16 elements take. With two
threads that sleep in between, slices of 2**16 took four times as long as these; with one thread the two are equal.
"""


class RowStatistics(NamedTuple):
    """What a row's divergence and gradient are made of; every field is [n].

    Attributes:
        value: the divergence, in nats.
        shift: mu + KL(p||q), so that log(q/p) = d - shift.
        moment: KL(q||p) for reverse, sum q log(q/m) for jsd, zero for forward.
    """

    value: Tensor
    shift: Tensor
    moment: Tensor


def row_slices(rows: int, columns: int) -> Iterator[slice]:
    """Cut rows into slices small enough for the cache."""
    step = max(1, _SLICE_ELEMENTS // max(1, columns))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def row_statistics_(teacher: Tensor, difference: Tensor, divergence: str) -> RowStatistics:
    """Statistics of each row; leaves log p in `teacher` and log(q/p) in `difference`.

    Args:
        teacher: [n, V] teacher logits over the temperature, float32 or float64.
        difference: [n, V] student minus teacher logits over the temperature.
        divergence: forward, reverse or jsd.
    """
    log_p = torch.log_softmax(teacher, dim=-1, out=teacher)
    p = log_p.exp()
    mean = torch.linalg.vecdot(p, difference)
    delta = difference.sub_(mean.unsqueeze(-1))
    if _far_apart(delta):
        forward = torch.logsumexp(log_p + delta, dim=-1)
    else:
        forward = torch.log1p(torch.linalg.vecdot(p, _excess(delta)))
    log_ratio = delta.sub_(forward.unsqueeze(-1))
    if divergence == "forward":
        return RowStatistics(forward, mean + forward, torch.zeros_like(forward))
    q_minus_p = _probability_difference(log_p, p, log_ratio)
    if divergence == "reverse":
        reverse = torch.linalg.vecdot(q_minus_p + p, log_ratio) - q_minus_p.sum(dim=-1)
        return RowStatistics(reverse, mean + forward, reverse)
    log_m_over_p = log_ratio.clamp(max=_EXP_LIMIT).expm1_().mul_(0.5).log1p_()
    log_q_over_m = _log_q_over_m(log_ratio)
    shared = torch.linalg.vecdot(q_minus_p, log_q_over_m)
    value = 0.5 * (torch.linalg.vecdot(p, log_q_over_m - log_m_over_p) + shared)
    return RowStatistics(value, mean + forward, shared + torch.linalg.vecdot(p, log_q_over_m))


def forward_divergence_(teacher: Tensor, difference: Tensor, want_gradient: bool) -> Tensor:
    """KL(p||q) of each row, [n]; with `want_gradient`, `difference` becomes its gradient q - p. Overwrites `teacher`.

    The same as `row_statistics_` and `row_gradient_` for the forward divergence, in half as many passes: with
    e = expm1(delta), u = delta - KL gives q - p = p expm1(u) = p (e exp(-KL) + expm1(-KL)), so one exponential of each
    number serves value and gradient.

    Args:
        teacher: [n, V] teacher logits over the temperature, float32 or float64.
        difference: [n, V] student minus teacher logits over the temperature.
        want_gradient: whether the gradient is wanted; if not, `difference` is overwritten with nothing of use.
    """
    low, high = torch.aminmax(difference, dim=-1)
    spread = (high - low).amax().item() if difference.numel() else 0.0
    if not spread <= _EXP_LIMIT:  # NaN too
        statistics = row_statistics_(teacher, difference, "forward")
        if want_gradient:
            row_gradient_(teacher, difference, statistics.moment, "forward")
        return statistics.value
    p = torch.softmax(teacher, dim=-1, out=teacher)
    delta = difference.sub_(torch.linalg.vecdot(p, difference).unsqueeze(-1))  # |delta| is at most the spread
    if spread <= _SERIES_LIMIT:
        excess = _excess_series(delta)
        value = torch.log1p(torch.linalg.vecdot(p, excess))
        e = excess.add_(delta)
    else:
        e = torch.expm1(delta)
        value = torch.log1p(torch.linalg.vecdot(p, delta.neg_().add_(e).clamp_min_(0.0)))
    if not want_gradient:
        return value
    e.mul_(torch.exp(-value).unsqueeze(-1)).add_(torch.expm1(-value).unsqueeze(-1))
    torch.mul(p, e, out=difference)
    return value


def row_gradient_(log_p: Tensor, log_ratio: Tensor, moment: Tensor, divergence: str) -> None:
    """Turn log(q/p) into the gradient of the divergence with respect to the student's logits over the temperature.

    Args:
        log_p: [n, V], overwritten.
        log_ratio: [n, V] log(q/p), becomes the gradient: q - p for forward, q (log(q/p) - KL(q||p)) for reverse,
            q/2 (log(q/m) - sum q log(q/m)) for jsd.
        moment: [n] from `row_statistics_`.
        divergence: forward, reverse or jsd.
    """
    if divergence == "forward":
        log_ratio.copy_(_probability_difference(log_p, log_p.exp(), log_ratio))
        return
    q = (log_p + log_ratio).exp_()
    if divergence == "reverse":
        log_ratio.sub_(moment.unsqueeze(-1)).mul_(q)
    else:
        log_ratio.copy_(_log_q_over_m(log_ratio)).sub_(moment.unsqueeze(-1)).mul_(q).mul_(0.5)


def _far_apart(log_ratio: Tensor) -> bool:
    """Whether a ratio q/p is so large that exp of it may overflow, or meet a p that has underflowed."""
    return log_ratio.numel() > 0 and bool(log_ratio.amax() > _EXP_LIMIT)


def _excess(delta: Tensor) -> Tensor:
    """expm1(delta) - delta; by its series where the two would cancel."""
    if delta.numel() and torch.linalg.vector_norm(delta, ord=float("inf")) > _SERIES_LIMIT:
        return torch.expm1(delta).sub_(delta).clamp_min_(0.0)
    return _excess_series(delta)


def _excess_series(delta: Tensor) -> Tensor:
    """expm1(delta) - delta up to the fourth power."""
    return delta.mul(1 / 24).add_(1 / 6).mul_(delta).add_(0.5).mul_(delta).mul_(delta)


def _probability_difference(log_p: Tensor, p: Tensor, log_ratio: Tensor) -> Tensor:
    """Q - p, without cancellation where q and p are close."""
    if not _far_apart(log_ratio):
        return torch.expm1(log_ratio).mul_(p)
    near = log_ratio.clamp(max=_EXP_LIMIT).expm1_().mul_(p)
    return torch.where(log_ratio < 1.0, near, (log_p + log_ratio).exp_().sub_(p))


def _log_q_over_m(log_ratio: Tensor) -> Tensor:
    """log(q/m) = -log1p(expm1(-u)/2) for u = log(q/p)."""
    return log_ratio.neg().clamp_(max=_EXP_LIMIT).expm1_().mul_(0.5).log1p_().neg_()
