r"""The divergence under a head whose classes are shared out among processes, as tensor parallelism does.

Each process has a slice of the classes, with its logits z and differences d. What it finds there is merged by the rule
of `_divergence/kernels.py`, slices in the place of blocks: seven numbers a token are gathered, the log-normalizer, mu,
K and S of a slice, and three for rows far apart. jsd needs two more sums over all classes. The gradient with respect to
the logits of a slice needs nothing else, and its products with the slices of the head add up over the processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from safe_kernels._divergence.inputs import Measure
from safe_kernels._elementary import expm1_and_excess, log_mean_exp

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_FAR = 40.0
"""Beyond it exp(delta) may meet a probability that has underflowed; log-normalizers are used then."""

_SATURATED = 1e20

_groups: dict[str, ProcessGroup] = {}


def name_group(group: ProcessGroup) -> str:
    """A name under which `find_group` finds the group again: operators take no groups."""
    _groups[group.group_name] = group
    return group.group_name


def find_group(name: str) -> ProcessGroup:
    """The group that has been given this name."""
    return _groups[name]


class Whole(NamedTuple):
    """What all slices together say of the rows, [n] each in float64.

    Attributes:
        normalizer: the teacher's log-normalizer.
        shift: mu + KL(p||q).
        forward: KL(p||q).
        reverse: KL(q||p).
        reach: a bound on |log(q/p)|.
    """

    normalizer: Tensor
    shift: Tensor
    forward: Tensor
    reverse: Tensor
    reach: Tensor


def divergence_(
    teacher: Tensor, difference: Tensor, measure: Measure, want_gradient: bool, group: ProcessGroup
) -> Tensor:
    """As `divergence_` of whole rows, where this process has a slice of each; the value is that of the whole row."""
    dtype = difference.dtype
    whole = merge(_summarize(teacher, difference), group)
    value = whole.reverse if measure.name == "reverse" else whole.forward
    if measure.name == "jsd" or want_gradient:
        log_p = teacher.sub_(whole.normalizer.to(dtype).unsqueeze(-1))
        u = difference.sub(whole.shift.to(dtype).unsqueeze(-1))
        p = log_p.exp()
        change = torch.where(u < 1.0, u.clamp(max=1.0).expm1() * p, (log_p + u).exp() - p)
        if measure.name == "forward":
            difference.copy_(change)
        elif measure.name == "reverse":
            difference.copy_((p + change) * (u - value.to(dtype).unsqueeze(-1)))
        else:
            value = _jensen_shannon_(p, change, u, measure.beta, difference, group)
    return value.to(dtype)


def _jensen_shannon_(
    p: Tensor, change: Tensor, u: Tensor, beta: float, gradient: Tensor, group: ProcessGroup
) -> Tensor:
    alpha = 1.0 - beta
    curvature = log_mean_exp(u, beta)
    q = p + change
    log_q_over_m = beta * u - curvature
    terms = beta * alpha * change * u - (p + alpha * change) * curvature
    sums = torch.stack((terms.sum(-1), (q * log_q_over_m).sum(-1)))
    torch.distributed.all_reduce(sums, group=group)
    torch.mul(q, log_q_over_m - sums[1].unsqueeze(-1), out=gradient).mul_(alpha)
    return sums[0].clamp_min(0.0)


def _summarize(teacher: Tensor, difference: Tensor) -> Tensor:
    """Of each row's slice, [7, n]: log-normalizer, mu, K, S, the student's log-normalizer and mean of d, reach."""
    p, normalizer = _softmax(teacher)
    mean = (p * difference).sum(-1)
    delta = difference - mean.unsqueeze(-1)
    delta.masked_fill_(torch.isneginf(teacher), 0.0)
    is_far, reach = delta.amax(-1) > _FAR, delta.abs().amax(-1)
    expm1, excess = expm1_and_excess(delta.clamp(max=_FAR), torch.inf, delta.new_empty((3, *delta.shape)))
    excess = (p * excess).sum(-1).masked_fill(is_far, torch.inf)
    spread = (p * delta * expm1).sum(-1)
    q, student_normalizer = _softmax(teacher + difference)
    return torch.stack((normalizer, mean, excess, spread, student_normalizer, (q * difference).sum(-1), reach))


def _softmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities within the slice and log-normalizer; zeros and -inf where it has no class that counts."""
    normalizer = torch.logsumexp(logits, -1)
    finite = normalizer.masked_fill(torch.isneginf(normalizer), 0.0)
    return (logits - finite.unsqueeze(-1)).exp(), normalizer


def merge(found: Tensor, group: ProcessGroup) -> Whole:
    """What all processes found in their slices, put together; [7, n] as of `_summarize`."""
    return _merge(_gather(found.double(), group))


def _gather(found: Tensor, group: ProcessGroup) -> Tensor:
    """What every process found, [processes, 7, n]."""
    everyone = [torch.empty_like(found) for _ in range(torch.distributed.get_world_size(group))]
    torch.distributed.all_gather(everyone, found.contiguous(), group=group)
    return torch.stack(everyone)


def _merge(found: Tensor) -> Whole:
    normalizers, means, excesses, spreads, student_normalizers, student_means, reaches = found.unbind(1)
    normalizer = torch.logsumexp(normalizers, 0)
    share = (normalizers - normalizer).exp()
    mean = (share * means).sum(0)
    distance = torch.where(share == 0.0, 0.0, means - mean)
    grown, expm1 = distance.exp(), distance.expm1()
    excess = (share * (expm1 - distance + grown * excesses)).sum(0)
    spread = (share * (distance * expm1 + grown * (spreads + distance * excesses))).sum(0)
    student_normalizer = torch.logsumexp(student_normalizers, 0)
    student_mean = ((student_normalizers - student_normalizer).exp() * student_means).sum(0)
    is_far = ~(excess < _SATURATED)
    forward = torch.where(is_far, student_normalizer - normalizer - mean, excess.log1p())
    both = torch.where(is_far, student_mean - mean, spread / (1.0 + excess))
    reach = torch.where(share == 0.0, 0.0, reaches + distance.abs()).amax(0) + forward.abs()
    return Whole(normalizer, mean + forward, forward, (both - forward).clamp_min(0.0), reach)
