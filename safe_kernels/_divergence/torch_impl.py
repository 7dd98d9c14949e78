r"""The divergences in PyTorch operations, from the teacher's logits z and the *difference* d = student - teacher.

Rounding is the enemy: a retained model's student and teacher differ by 1e-3 in logits of size 10, so their float32
log-probabilities agree in most digits and the difference of two sums of them is noise. Everything here is a function of
d instead. With p = softmax(z), q the student's distribution, delta = d - E_p[d] and x(t) = exp(t) - 1 - t >= 0:

    F = KL(p||q) = log1p(E_p[x(delta)])     u = delta - F = log(q/p)     q - p = p expm1(u)
    J = sum (q - p) u = F + KL(q||p)        C = sum m g(u)

The second line gives the other divergences: KL(q||p) = J - F, and with a = beta, b = 1 - beta and m = a p + b q

    JSD = a KL(p||m) + b KL(q||m) = a b J - C        g(u) = log(a exp(-b u) + b exp(a u)) = log1p(a x(-b u) + b x(a u))

since log(q/m) = a u - g(u) and log(m/p) = b u + g(u); for beta = 1/2, g(u) = log cosh(u/2). Every term of every sum is
of second order in d, as the divergences are: nothing cancels, however close student and teacher are. The gradients with
respect to the student's logits are q - p, q (u - KL(q||p)) and b q (log(q/m) - KL(q||m)).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from safe_kernels._divergence.inputs import Measure
from safe_kernels._elementary import expm1_and_excess, log_cosh, log_mean_exp

_EXP_LIMIT = 40.0
"""Up to here p expm1(u) is right even if p has underflowed: q is then below exp(-47)."""

SLICE_ELEMENTS = 2**20
"""Elements worked on at a time: with the temporaries, 20 MiB of float32 that stay in the processor's last cache.

Not less where memory allows it: an operation is shared out over the threads, and waking them takes as long as 2**16
elements take. With two threads that sleep in between, slices of 2**18 took twice as long as these.
"""


class _Distributions(NamedTuple):
    """Teacher and student of some rows; F is [n], the others [n, V]."""

    p: Tensor
    q_minus_p: Tensor
    log_ratio: Tensor
    forward: Tensor


def slices(rows: int, step: int) -> Iterator[slice]:
    """Cut a number of rows into slices."""
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def slice_scratch(rows: int, columns: int, elements: int, like: Tensor) -> Tensor:
    """Memory for `divergence_` of as many rows at a time as the elements hold, [3, n, V].

    Taken once: the system hands out fresh pages more slowly than they are worked on.
    """
    return like.new_empty((3, max(1, min(rows, elements // max(1, columns))), columns))


def ignore_excluded_(difference: Tensor, student: Tensor, teacher: Tensor) -> None:
    """Set the difference of classes that both exclude to zero; -inf minus -inf is NaN."""
    if teacher.numel() and teacher.amin() == -torch.inf:
        difference.masked_fill_(torch.isneginf(teacher) & torch.isneginf(student), 0.0)


def divergence_(teacher: Tensor, difference: Tensor, measure: Measure, want_gradient: bool, scratch: Tensor) -> Tensor:
    """Divergence of each row, [n], in nats.

    Args:
        teacher: [n, V] teacher logits over the temperature, float32 or float64; overwritten.
        difference: [n, V] student minus teacher logits over the temperature. With `want_gradient` it becomes the
            gradient of each row's divergence with respect to the student's logits over the temperature; without, it
            is overwritten with nothing of use.
        measure: which divergence.
        want_gradient: whether the gradient is wanted.
        scratch: `slice_scratch`; its rows say how many are worked on at a time.
    """
    values = difference.new_empty(difference.shape[0])
    for rows in slices(difference.shape[0], scratch.shape[1]):
        values[rows] = _slice_divergence_(teacher[rows], difference[rows], measure, want_gradient, scratch)
    return values


def _slice_divergence_(
    teacher: Tensor, difference: Tensor, measure: Measure, want_gradient: bool, scratch: Tensor
) -> Tensor:
    if difference.numel() == 0:
        return difference.new_zeros(difference.shape[0])
    scratch = scratch[:, : difference.shape[0]]
    spread = difference.amax(dim=-1).sub_(difference.amin(dim=-1))
    is_far = ~(spread <= _EXP_LIMIT)  # NaN too
    if not is_far.any():
        return _near_(teacher, difference, float(spread.amax()), measure, want_gradient, scratch)
    values = torch.empty_like(spread)
    far, near = is_far.nonzero().flatten(), (~is_far).nonzero().flatten()
    apart = difference[far]
    values[far] = _from_distributions_(_compare_far_apart(teacher[far], apart), apart, measure)
    difference[far] = apart
    if near.numel():
        close = difference[near]
        values[near] = _near_(teacher[near], close, _EXP_LIMIT, measure, want_gradient, scratch[:, : near.numel()])
        difference[near] = close
    return values


def _near_(
    teacher: Tensor, difference: Tensor, reach: float, measure: Measure, want_gradient: bool, scratch: Tensor
) -> Tensor:
    """`divergence_` of rows whose differences spread over at most `reach`."""
    product = scratch[2]
    p = torch.softmax(teacher, dim=-1, out=teacher)
    delta = difference.sub_(torch.mul(p, difference, out=product).sum(dim=-1, keepdim=True))
    e, excess = expm1_and_excess(delta, reach, scratch)
    forward = torch.log1p(torch.mul(p, excess, out=product).sum(dim=-1))
    if measure.name == "forward" and not want_gradient:
        return forward
    # expm1(u) = expm1(delta - F): no second exponential is needed.
    e.mul_(torch.exp(-forward).unsqueeze(-1)).add_(torch.expm1(-forward).unsqueeze(-1))
    if measure.name == "forward":
        torch.mul(p, e, out=difference)
        return forward
    log_ratio = delta.sub_(forward.unsqueeze(-1))
    return _from_distributions_(_Distributions(p, e.mul_(p), log_ratio, forward), difference, measure)


def _compare_far_apart(teacher: Tensor, difference: Tensor) -> _Distributions:
    """Where q/p may overflow, or meet a p that has underflowed: q comes from log-probabilities."""
    log_p = torch.log_softmax(teacher, dim=-1)
    p = log_p.exp()
    log_ratio = difference - torch.logsumexp(log_p + difference, dim=-1, keepdim=True)
    e, excess = expm1_and_excess(log_ratio.clamp(max=1.0), torch.inf, log_p.new_empty((3, *log_p.shape)))
    q_minus_p = torch.where(log_ratio < 1.0, e.mul_(p), (log_p + log_ratio).exp_().sub_(p))
    # F = sum (q - p - p u), because the probabilities of both add up to one.
    forward = torch.where(log_ratio < 1.0, excess.mul_(p), q_minus_p - p * log_ratio).sum(dim=-1)
    return _Distributions(p, q_minus_p, log_ratio, forward)


def _from_distributions_(given: _Distributions, gradient: Tensor, measure: Measure) -> Tensor:
    """Divergence of each row; its gradient is written to `gradient`, which may be `given.log_ratio` itself."""
    p, q_minus_p, log_ratio, forward = given
    if measure.name == "forward":
        gradient.copy_(q_minus_p)
        return forward
    q = p + q_minus_p
    jeffreys = (q_minus_p * log_ratio).sum(dim=-1)
    if measure.name == "reverse":
        reverse = jeffreys.sub_(forward)
        torch.sub(log_ratio, reverse.unsqueeze(-1), out=gradient).mul_(q)
        return reverse
    beta, alpha = measure.beta, 1.0 - measure.beta
    curvature = log_cosh(log_ratio.mul(0.5)) if measure.beta == 0.5 else log_mean_exp(log_ratio, measure.beta)
    mixture = p.mul_(beta).add_(q, alpha=alpha)
    value = jeffreys.mul_(beta * alpha).sub_(mixture.mul_(curvature).sum(dim=-1))
    log_q_over_m = curvature.neg_().add_(log_ratio, alpha=beta)
    moment = (q * log_q_over_m).sum(dim=-1, keepdim=True)
    torch.sub(log_q_over_m, moment, out=gradient).mul_(q).mul_(alpha)
    return value
