r"""Triton functions on one row of logits: its statistics in a single pass over V classes, and its gradient.

The mathematics is that of `fallback.py`. A single pass needs a rule to merge two groups of classes A and B. Each has
its log-normalizer, its mean mu of d, K = E[expm1(delta) - delta] and S = E[delta expm1(delta)], expectations under p
within the group, delta = d - mu. With the groups' shares alpha, beta of the mass, mu = alpha mu_A + beta mu_B and
D_A = mu_A - mu (so that alpha D_A + beta D_B = 0),

    K = alpha (expm1(D_A) - D_A + exp(D_A) K_A) + the same of B
    S = alpha (D_A expm1(D_A) + exp(D_A) (S_A + D_A K_A)) + the same of B

Every term of K is >= 0: nothing cancels, however close student and teacher are. In the end KL(p||q) = log1p(K) and
KL(p||q) + KL(q||p) = S / (1 + K).
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false, reportAttributeAccessIssue=false
# Kernels are a language of their own in Python's syntax: a call returns what its body computes, which Python's types
# cannot say.

from __future__ import annotations

import triton
import triton.language as tl

from safe_kernels._triton import expm1, log1p, weighted_excess, weighted_expm1

FORWARD: tl.constexpr = tl.constexpr(0)
REVERSE: tl.constexpr = tl.constexpr(1)
JSD: tl.constexpr = tl.constexpr(2)

_LOWEST: tl.constexpr = tl.constexpr(-1e30)
"""Stands for the logit of no class; the difference of two infinities would be NaN."""

_EXCLUDED: tl.constexpr = tl.constexpr(-1e29)
"""A block whose largest logit is below holds no class: it has no mean and is passed over."""

_SATURATED: tl.constexpr = tl.constexpr(1e20)
"""K above this may have been cut off; such a row (KL above 46) is computed again from log-normalizers."""


@triton.jit
def tanh(x: tl.tensor) -> tl.tensor:
    """Hyperbolic tangent, exact near zero."""
    e = expm1(-2.0 * tl.abs(x))
    return tl.where(x < 0, e / (2.0 + e), -e / (2.0 + e))


@triton.jit
def load_block(
    teacher_ptr: tl.tensor,
    other_ptr: tl.tensor,
    start: tl.tensor,
    classes: tl.tensor,
    inverse_temperature: tl.tensor,
    softcap: tl.tensor,
    FROM_LOGITS: tl.constexpr,
    SOFTCAP: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Teacher logits and differences of BLOCK classes, capped and over the temperature, and the cap's slope.

    The other row holds the student's logits (FROM_LOGITS) or the differences. Where the teacher excludes a class by
    -inf, and past the last class: lowest.
    """
    columns = start + tl.arange(0, BLOCK)
    inside = columns < classes
    teacher = tl.load(teacher_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    other = tl.load(other_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    if FROM_LOGITS:
        absent = (teacher == -float("inf")) & (other == -float("inf"))
        # What one alone excludes has no finite difference, and must not pass for what both exclude.
        alone = (teacher == -float("inf")) ^ (other == -float("inf"))
        teacher = tl.where(alone, float("nan"), teacher)
        other = tl.where(absent, 0.0, other) - tl.where(absent, 0.0, teacher)
    counts = inside
    slope = tl.full([BLOCK], 1.0, tl.float32)
    if SOFTCAP:
        teacher_tanh = tanh(teacher / softcap)
        student_tanh = tanh((teacher + other) / softcap)
        other = softcap * tanh(other / softcap) * (1.0 - student_tanh * teacher_tanh)
        slope = 1.0 - student_tanh * student_tanh
        teacher = softcap * teacher_tanh
    else:
        counts = inside & (teacher != -float("inf"))
    return tl.where(counts, teacher * inverse_temperature, _LOWEST), other * inverse_temperature, slope


@triton.jit
def statistics(
    teacher_ptr: tl.tensor,
    other_ptr: tl.tensor,
    classes: tl.tensor,
    inverse_temperature: tl.tensor,
    softcap: tl.tensor,
    DIVERGENCE: tl.constexpr,
    FROM_LOGITS: tl.constexpr,
    SOFTCAP: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Divergence of a row, log-normalizer of the teacher, shift mu + KL(p||q), moment, and KL(p||q)."""
    largest = tl.full([], _LOWEST, tl.float32)
    mass = tl.full([], 0.0, tl.float32)
    mean = tl.full([], 0.0, tl.float32)
    excess = tl.full([], 0.0, tl.float32)
    spread = tl.full([], 0.0, tl.float32)
    for start in range(0, classes, BLOCK):
        z, d, _ = load_block(
            teacher_ptr, other_ptr, start, classes, inverse_temperature, softcap, FROM_LOGITS, SOFTCAP, BLOCK
        )
        block_largest = tl.max(z, 0)
        if block_largest > _EXCLUDED:
            log_weight = z - block_largest
            weight = tl.exp(log_weight)
            block_mass = tl.sum(weight, 0)
            block_mean = tl.sum(weight * d, 0) / block_mass
            delta = d - block_mean
            block_excess = tl.sum(weighted_excess(weight, log_weight, delta), 0) / block_mass
            block_spread = block_excess
            if DIVERGENCE == REVERSE:
                block_spread = tl.sum(delta * weighted_expm1(weight, log_weight, delta), 0) / block_mass
            new_largest = tl.maximum(largest, block_largest)
            kept = mass * tl.exp(largest - new_largest)
            added = block_mass * tl.exp(block_largest - new_largest)
            mass = kept + added
            new_mean = mean + (added / mass) * (block_mean - mean)
            old_excess, old_spread = _moved(kept / mass, mean - new_mean, excess, spread)
            more_excess, more_spread = _moved(added / mass, block_mean - new_mean, block_excess, block_spread)
            excess = tl.minimum(old_excess + more_excess, 1e30, propagate_nan=tl.PropagateNan.ALL)
            spread = tl.minimum(old_spread + more_spread, 1e30, propagate_nan=tl.PropagateNan.ALL)
            mean = new_mean
            largest = new_largest
        else:
            excess += tl.sum(z * 0.0, 0)  # nothing, unless there is a NaN: the largest does not show one
    normalizer = largest + tl.log(mass)
    forward = log1p(excess)
    both = spread / (1.0 + excess)
    if excess > _SATURATED:
        student_normalizer, student_mean = _student_normalizer(
            teacher_ptr, other_ptr, classes, inverse_temperature, softcap, FROM_LOGITS, SOFTCAP, BLOCK
        )
        forward = student_normalizer - normalizer - mean
        both = student_mean - mean
    shift = mean + forward
    value = forward
    moment = tl.full([], 0.0, tl.float32)
    if DIVERGENCE == REVERSE:
        value = tl.maximum(both - forward, 0.0, propagate_nan=tl.PropagateNan.ALL)
        moment = value
    if DIVERGENCE == JSD:
        value, moment = _jensen_shannon(
            teacher_ptr,
            other_ptr,
            classes,
            normalizer,
            shift,
            inverse_temperature,
            softcap,
            FROM_LOGITS,
            SOFTCAP,
            BLOCK,
        )
    return value, normalizer, shift, moment, forward


@triton.jit
def write_gradient(
    gradient_ptr: tl.tensor,
    teacher_ptr: tl.tensor,
    other_ptr: tl.tensor,
    classes: tl.tensor,
    normalizer: tl.tensor,
    shift: tl.tensor,
    moment: tl.tensor,
    factor: tl.tensor,
    inverse_temperature: tl.tensor,
    softcap: tl.tensor,
    DIVERGENCE: tl.constexpr,
    FROM_LOGITS: tl.constexpr,
    SOFTCAP: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Write a row of the gradient, times `factor` and the cap's slope; may overwrite the row of differences."""
    for start in range(0, classes, BLOCK):
        z, d, slope = load_block(
            teacher_ptr, other_ptr, start, classes, inverse_temperature, softcap, FROM_LOGITS, SOFTCAP, BLOCK
        )
        log_p = z - normalizer
        p = tl.exp(log_p)
        u = d - shift
        gradient = weighted_expm1(p, log_p, u)
        if DIVERGENCE == REVERSE:
            gradient = (gradient + p) * (u - moment)
        if DIVERGENCE == JSD:
            gradient = 0.5 * (gradient + p) * (_log_q_over_m(u) - moment)
        columns = start + tl.arange(0, BLOCK)
        stored = (gradient * factor * slope).to(gradient_ptr.dtype.element_ty)
        tl.store(gradient_ptr + columns, stored, mask=columns < classes)


@triton.jit
def write_zeros(gradient_ptr: tl.tensor, classes: tl.tensor, BLOCK: tl.constexpr) -> None:
    """Write a row of zeros."""
    for start in range(0, classes, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        tl.store(gradient_ptr + columns, tl.zeros([BLOCK], gradient_ptr.dtype.element_ty), mask=columns < classes)


@triton.jit
def _moved(share: tl.tensor, distance: tl.tensor, excess: tl.tensor, spread: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """A group's part of K and S after its mean has moved by `distance` from its own."""
    log_share = tl.where(share > 0.0, tl.log(tl.maximum(share, 1e-37)), _LOWEST)
    expm1_part = weighted_expm1(share, log_share, distance)
    exp_part = expm1_part + share
    moved_excess = weighted_excess(share, log_share, distance) + exp_part * excess
    return moved_excess, distance * expm1_part + exp_part * (spread + distance * excess)


@triton.jit
def _student_normalizer(
    teacher_ptr: tl.tensor,
    other_ptr: tl.tensor,
    classes: tl.tensor,
    inverse_temperature: tl.tensor,
    softcap: tl.tensor,
    FROM_LOGITS: tl.constexpr,
    SOFTCAP: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Log-normalizer of the student and the mean of d under the student."""
    largest = tl.full([], _LOWEST, tl.float32)
    mass = tl.full([], 0.0, tl.float32)
    total = tl.full([], 0.0, tl.float32)
    for start in range(0, classes, BLOCK):
        z, d, _ = load_block(
            teacher_ptr, other_ptr, start, classes, inverse_temperature, softcap, FROM_LOGITS, SOFTCAP, BLOCK
        )
        student = z + d
        new_largest = tl.maximum(largest, tl.max(student, 0))
        weight = tl.exp(student - new_largest)
        kept = tl.exp(largest - new_largest)
        mass = mass * kept + tl.sum(weight, 0)
        total = total * kept + tl.sum(weight * d, 0)
        largest = new_largest
    return largest + tl.log(mass), total / mass


@triton.jit
def _jensen_shannon(
    teacher_ptr: tl.tensor,
    other_ptr: tl.tensor,
    classes: tl.tensor,
    normalizer: tl.tensor,
    shift: tl.tensor,
    inverse_temperature: tl.tensor,
    softcap: tl.tensor,
    FROM_LOGITS: tl.constexpr,
    SOFTCAP: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Jensen-Shannon divergence and sum q log(q/m); a second pass, since both need the normalized log(q/p)."""
    value = tl.full([], 0.0, tl.float32)
    moment = tl.full([], 0.0, tl.float32)
    for start in range(0, classes, BLOCK):
        z, d, _ = load_block(
            teacher_ptr, other_ptr, start, classes, inverse_temperature, softcap, FROM_LOGITS, SOFTCAP, BLOCK
        )
        log_p = z - normalizer
        p = tl.exp(log_p)
        u = d - shift
        q_minus_p = weighted_expm1(p, log_p, u)
        log_q_over_m = _log_q_over_m(u)
        log_m_over_p = log1p(0.5 * expm1(u))
        value += tl.sum(p * (log_q_over_m - log_m_over_p) + q_minus_p * log_q_over_m, 0)
        moment += tl.sum((q_minus_p + p) * log_q_over_m, 0)
    return tl.maximum(0.5 * value, 0.0, propagate_nan=tl.PropagateNan.ALL), moment


@triton.jit
def _log_q_over_m(u: tl.tensor) -> tl.tensor:
    """log(q/m) for u = log(q/p)."""
    return -log1p(0.5 * expm1(-u))
