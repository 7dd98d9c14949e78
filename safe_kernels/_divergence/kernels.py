r"""Triton functions on one row of logits: its statistics in a single pass over V classes, and its gradient.

The mathematics is that of `torch_impl.py`. A block of classes has its log-normalizer, its mean mu of d, and under p
within the block K = E[expm1(delta) - delta] and S = E[delta expm1(delta)], delta = d - mu. Blocks are kept apart, and
merged when all are there: with a block's share alpha of the mass, mu = sum alpha mu_A and D_A = mu_A - mu,

    K = sum over A of alpha (expm1(D_A) - D_A + exp(D_A) K_A)
    S = sum over A of alpha (D_A expm1(D_A) + exp(D_A) (S_A + D_A K_A))

Every term of K is >= 0: nothing cancels, however close student and teacher are. In the end KL(p||q) = log1p(K) and
KL(p||q) + KL(q||p) = S / (1 + K).

Where |d - mu| is below a quarter in a whole block, or |log(q/p)| in a whole row, a series takes the place of the second
exponential. Which it is is decided once a block or a row, so that all threads go the same way. Logits are raw, as they
lie in memory; `log2_scale` is log2(e) over the temperature and turns them into powers of two.
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false, reportAttributeAccessIssue=false
# Kernels are a language of their own in Python's syntax: a call returns what its body computes, which Python's types
# cannot say.

from __future__ import annotations

import triton
import triton.language as tl

from safe_kernels._triton import exp_series, log1p

FORWARD: tl.constexpr = tl.constexpr(0)
REVERSE: tl.constexpr = tl.constexpr(1)
JSD: tl.constexpr = tl.constexpr(2)

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)

LN_2: tl.constexpr = tl.constexpr(0.6931471805599453)

_LOWEST: tl.constexpr = tl.constexpr(-1e30)
"""Largest logit of a block without a class; the difference of two infinities would be NaN."""

_NEAR: tl.constexpr = tl.constexpr(0.25)
"""Up to here the series holds."""

_LOG2_LIMIT: tl.constexpr = tl.constexpr(100.0)
"""Exponents are cut off here, so that powers of two stay finite."""

SATURATED: tl.constexpr = tl.constexpr(1e20)
"""K above this may have been cut off; such a row (KL above 46) is computed again from log-normalizers."""

_ALL: tl.constexpr = tl.constexpr(tl.PropagateNan.ALL)


@triton.jit
def load_block(
    teacher_ptr: tl.tensor,
    other_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    other_bias_ptr: tl.tensor,
    start: tl.tensor,
    classes: tl.tensor,
    vocabulary: tl.tensor,
    softcap: tl.tensor,
    FROM_LOGITS: tl.constexpr,
    BIAS: tl.constexpr,
    SOFTCAP: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Teacher logits and differences of BLOCK classes, capped, and the cap's slope.

    The other row holds the student's logits (FROM_LOGITS) or the differences. Columns from `vocabulary` on are padding
    up to `classes`. Where there is no class the teacher's logit is -inf and the difference zero.
    """
    columns = start + tl.arange(0, BLOCK)
    inside = columns < classes
    teacher = tl.load(teacher_ptr + columns, mask=inside, other=-float("inf")).to(tl.float32)
    other = tl.load(other_ptr + columns, mask=inside, other=-float("inf") if FROM_LOGITS else 0.0).to(tl.float32)
    if BIAS:
        teacher += tl.load(bias_ptr + columns, mask=columns < vocabulary, other=0.0).to(tl.float32)
        if FROM_LOGITS:
            other += tl.load(other_bias_ptr + columns, mask=columns < vocabulary, other=0.0).to(tl.float32)
    if FROM_LOGITS:
        teacher_excludes = teacher == -float("inf")
        student_excludes = other == -float("inf")
        # What one alone excludes has no finite difference, and must not pass for what both exclude.
        teacher = tl.where(teacher_excludes ^ student_excludes, float("nan"), teacher)
        other = tl.where(teacher_excludes & student_excludes, 0.0, other - tl.where(teacher_excludes, 0.0, teacher))
    slope = tl.full([BLOCK], 1.0, tl.float32)
    if SOFTCAP:
        teacher, other, slope = _capped(teacher, other, softcap)
        teacher = tl.where(columns < vocabulary, teacher, -float("inf"))
    return teacher, other, slope


@triton.jit
def summary(
    teacher_ptr: tl.tensor,
    other_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    other_bias_ptr: tl.tensor,
    classes: tl.tensor,
    vocabulary: tl.tensor,
    inverse_temperature: tl.tensor,
    softcap: tl.tensor,
    DIVERGENCE: tl.constexpr,
    FROM_LOGITS: tl.constexpr,
    BIAS: tl.constexpr,
    SOFTCAP: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Log2-normalizer of the teacher, mu, K, S (of REVERSE alone) and a bound on |d - mu|, of a row."""
    log2_scale = inverse_temperature * LOG2_E
    slots = tl.arange(0, BLOCKS)
    largest_of = tl.full([BLOCKS], _LOWEST, tl.float32)
    mass_of = tl.full([BLOCKS], 0.0, tl.float32)
    mean_of = tl.full([BLOCKS], 0.0, tl.float32)
    excess_of = tl.full([BLOCKS], 0.0, tl.float32)
    spread_of = tl.full([BLOCKS], 0.0, tl.float32)
    reach_of = tl.full([BLOCKS], 0.0, tl.float32)
    for start in range(0, classes, BLOCK):
        z, d, _ = load_block(
            teacher_ptr, other_ptr, bias_ptr, other_bias_ptr, start, classes, vocabulary, softcap,
            FROM_LOGITS, BIAS, SOFTCAP, BLOCK,
        )  # fmt: skip
        largest = tl.maximum(tl.max(z, 0), _LOWEST)
        log2_weight = z * log2_scale - largest * log2_scale
        weight = tl.exp2(log2_weight)
        mass, mean = _two_sums(weight, weight * d)
        mean = mean / tl.maximum(mass, 1e-37, propagate_nan=_ALL) * inverse_temperature
        delta = d * inverse_temperature - mean
        reach = tl.max(tl.abs(delta), 0)
        terms = weight * (delta * delta) * exp_series(delta)
        excess = tl.sum(terms, 0)
        spread = excess
        if DIVERGENCE == REVERSE:
            spread = tl.sum(delta * (weight * delta + terms), 0)
        if reach >= _NEAR:
            # Read again: kept in registers, the block would let fewer programs run at a time.
            z, d, _ = load_block(
                teacher_ptr, other_ptr, bias_ptr, other_bias_ptr, start, classes, vocabulary, softcap,
                FROM_LOGITS, BIAS, SOFTCAP, BLOCK,
            )  # fmt: skip
            excess, spread = _far_moments(
                z * log2_scale - largest * log2_scale, d * inverse_temperature - mean, DIVERGENCE
            )
        here = slots == start // BLOCK
        largest_of = tl.where(here, largest, largest_of)
        mass_of = tl.where(here, mass, mass_of)
        mean_of = tl.where(here, mean, mean_of)
        excess_of = tl.where(here, excess, excess_of)
        if DIVERGENCE == REVERSE:
            spread_of = tl.where(here, spread, spread_of)
        reach_of = tl.where(here, reach, reach_of)
    largest = tl.max(largest_of, 0)
    log2_moved = (largest_of - largest) * log2_scale
    moved = mass_of * tl.exp2(log2_moved)
    mass = tl.maximum(tl.sum(moved, 0), 1e-37, propagate_nan=_ALL)  # a slice of a head may have no class that counts
    share = moved / mass
    mean = tl.sum(share * mean_of, 0)
    distance = tl.where(share == 0.0, 0.0, mean_of - mean)
    filled = 1.0 / tl.maximum(mass_of, 1e-37)
    log2_share = tl.where(share == 0.0, _LOWEST, tl.log2(tl.maximum(share, 1e-37)))
    excess, spread = _moved(share, log2_share, distance, excess_of * filled, spread_of * filled)
    reach = tl.max(tl.where(share == 0.0, 0.0, reach_of + tl.abs(distance)), 0)
    excess = tl.minimum(tl.sum(excess, 0), 1e30, propagate_nan=_ALL)
    spread = tl.minimum(tl.sum(spread, 0), 1e30, propagate_nan=_ALL)
    return largest * log2_scale + tl.log2(mass), mean, excess, spread, reach


@triton.jit
def _far_moments(log2_weight: tl.tensor, delta: tl.tensor, DIVERGENCE: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """K and S (of REVERSE alone) of a block, times its mass, however large delta is."""
    weight = tl.exp2(log2_weight)
    more = _weighted_expm1(weight, log2_weight, delta)
    near = weight * (delta * delta) * exp_series(delta)
    excess = tl.sum(tl.where(tl.abs(delta) < _NEAR, near, more - weight * delta), 0)
    spread = excess
    if DIVERGENCE == REVERSE:
        spread = tl.sum(delta * more, 0)
    return excess, spread


@triton.jit
def student_normalizer(
    teacher_ptr: tl.tensor,
    other_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    other_bias_ptr: tl.tensor,
    classes: tl.tensor,
    vocabulary: tl.tensor,
    inverse_temperature: tl.tensor,
    softcap: tl.tensor,
    FROM_LOGITS: tl.constexpr,
    BIAS: tl.constexpr,
    SOFTCAP: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Log2-normalizer of the student and the mean of d under the student, of a row far apart."""
    log2_scale = inverse_temperature * LOG2_E
    largest = tl.full([], _LOWEST, tl.float32)
    mass = tl.full([], 0.0, tl.float32)
    total = tl.full([], 0.0, tl.float32)
    for start in range(0, classes, BLOCK):
        z, d, _ = load_block(
            teacher_ptr, other_ptr, bias_ptr, other_bias_ptr, start, classes, vocabulary, softcap,
            FROM_LOGITS, BIAS, SOFTCAP, BLOCK,
        )  # fmt: skip
        log2_student = (z + d) * log2_scale
        new_largest = tl.maximum(largest, tl.max(log2_student, 0))
        weight = tl.exp2(log2_student - new_largest)
        kept = tl.exp2(largest - new_largest)
        mass = mass * kept + tl.sum(weight, 0)
        total = total * kept + tl.sum(weight * d, 0)
        largest = new_largest
    return largest + tl.log2(mass), total / mass * inverse_temperature


@triton.jit
def jensen_shannon(
    teacher_ptr: tl.tensor,
    other_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    other_bias_ptr: tl.tensor,
    classes: tl.tensor,
    vocabulary: tl.tensor,
    log2_normalizer: tl.tensor,
    shift: tl.tensor,
    reach: tl.tensor,
    inverse_temperature: tl.tensor,
    softcap: tl.tensor,
    beta: tl.tensor,
    FROM_LOGITS: tl.constexpr,
    BIAS: tl.constexpr,
    SOFTCAP: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Jensen-Shannon divergence and sum q log(q/m); a second pass, since both need the normalized log(q/p)."""
    value = tl.full([], 0.0, tl.float32)
    moment = tl.full([], 0.0, tl.float32)
    if reach < _NEAR:
        for start in range(0, classes, BLOCK):
            p, _, u, _ = _ratio(
                teacher_ptr, other_ptr, bias_ptr, other_bias_ptr, start, classes, vocabulary, log2_normalizer, shift,
                inverse_temperature, softcap, FROM_LOGITS, BIAS, SOFTCAP, BLOCK,
            )  # fmt: skip
            change = p * (u + u * u * exp_series(u))
            curvature = _near_log_mean(u, beta)
            term = _jensen_term(p, change, u, curvature, beta)
            value += tl.sum(term, 0)
            moment += tl.sum((p + change) * (beta * u - curvature), 0)
    else:
        for start in range(0, classes, BLOCK):
            p, log2_p, u, _ = _ratio(
                teacher_ptr, other_ptr, bias_ptr, other_bias_ptr, start, classes, vocabulary, log2_normalizer, shift,
                inverse_temperature, softcap, FROM_LOGITS, BIAS, SOFTCAP, BLOCK,
            )  # fmt: skip
            change = _weighted_expm1(p, log2_p, u)
            near = tl.abs(u) < _NEAR
            curvature = _near_log_mean(tl.where(near, u, 0.0), beta)
            log_q_over_m, log_m_over_p = _far_log_ratios(u, beta)
            far_term = (1.0 - beta) * (p + change) * log_q_over_m - beta * p * log_m_over_p
            term = tl.where(near, _jensen_term(p, change, u, curvature, beta), far_term)
            log_q_over_m = tl.where(near, beta * u - curvature, log_q_over_m)
            value += tl.sum(term, 0)
            moment += tl.sum((p + change) * log_q_over_m, 0)
    return value, moment


@triton.jit
def statistics(
    teacher_ptr: tl.tensor,
    other_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    other_bias_ptr: tl.tensor,
    classes: tl.tensor,
    vocabulary: tl.tensor,
    inverse_temperature: tl.tensor,
    softcap: tl.tensor,
    beta: tl.tensor,
    DIVERGENCE: tl.constexpr,
    FROM_LOGITS: tl.constexpr,
    BIAS: tl.constexpr,
    SOFTCAP: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Divergence, log2-normalizer, shift mu + KL(p||q), moment, bound on |log(q/p)|, and KL(p||q)."""
    log2_normalizer, mean, excess, spread, reach = summary(
        teacher_ptr, other_ptr, bias_ptr, other_bias_ptr, classes, vocabulary, inverse_temperature, softcap,
        DIVERGENCE, FROM_LOGITS, BIAS, SOFTCAP, BLOCKS, BLOCK,
    )  # fmt: skip
    forward = log1p(excess)
    both = spread / (1.0 + excess)
    if excess > SATURATED:
        of_student, student_mean = student_normalizer(
            teacher_ptr, other_ptr, bias_ptr, other_bias_ptr, classes, vocabulary, inverse_temperature, softcap,
            FROM_LOGITS, BIAS, SOFTCAP, BLOCK,
        )  # fmt: skip
        forward = (of_student - log2_normalizer) * LN_2 - mean
        both = student_mean - mean
    shift = mean + forward
    reach += tl.abs(forward)
    value = forward
    moment = tl.full([], 0.0, tl.float32)
    if DIVERGENCE == REVERSE:
        value = tl.maximum(both - forward, 0.0, propagate_nan=tl.PropagateNan.ALL)
        moment = value
    if DIVERGENCE == JSD:
        value, moment = jensen_shannon(
            teacher_ptr, other_ptr, bias_ptr, other_bias_ptr, classes, vocabulary, log2_normalizer, shift, reach,
            inverse_temperature, softcap, beta, FROM_LOGITS, BIAS, SOFTCAP, BLOCK,
        )  # fmt: skip
        value = tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return value, log2_normalizer, shift, moment, reach, forward


@triton.jit
def write_gradient(
    gradient_ptr: tl.tensor,
    teacher_ptr: tl.tensor,
    other_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    other_bias_ptr: tl.tensor,
    classes: tl.tensor,
    vocabulary: tl.tensor,
    log2_normalizer: tl.tensor,
    shift: tl.tensor,
    moment: tl.tensor,
    reach: tl.tensor,
    factor: tl.tensor,
    inverse_temperature: tl.tensor,
    softcap: tl.tensor,
    beta: tl.tensor,
    DIVERGENCE: tl.constexpr,
    FROM_LOGITS: tl.constexpr,
    BIAS: tl.constexpr,
    SOFTCAP: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Write a row of the gradient, times `factor` and the cap's slope; may overwrite the row of differences."""
    if reach < _NEAR:
        for start in range(0, classes, BLOCK):
            p, _, u, slope = _ratio(
                teacher_ptr, other_ptr, bias_ptr, other_bias_ptr, start, classes, vocabulary, log2_normalizer, shift,
                inverse_temperature, softcap, FROM_LOGITS, BIAS, SOFTCAP, BLOCK,
            )  # fmt: skip
            relative = u + u * u * exp_series(u)
            if DIVERGENCE == REVERSE:
                relative = (relative + 1.0) * (u - moment)
            if DIVERGENCE == JSD:
                relative = (1.0 - beta) * (relative + 1.0) * (beta * u - _near_log_mean(u, beta) - moment)
            _store(gradient_ptr, start, classes, p * relative * factor, slope, SOFTCAP, BLOCK)
    else:
        for start in range(0, classes, BLOCK):
            p, log2_p, u, slope = _ratio(
                teacher_ptr, other_ptr, bias_ptr, other_bias_ptr, start, classes, vocabulary, log2_normalizer, shift,
                inverse_temperature, softcap, FROM_LOGITS, BIAS, SOFTCAP, BLOCK,
            )  # fmt: skip
            gradient = _weighted_expm1(p, log2_p, u)
            if DIVERGENCE == REVERSE:
                gradient = (gradient + p) * (u - moment)
            if DIVERGENCE == JSD:
                log_q_over_m, _ = _far_log_ratios(u, beta)
                near = tl.abs(u) < _NEAR
                curvature = _near_log_mean(tl.where(near, u, 0.0), beta)
                log_q_over_m = tl.where(near, beta * u - curvature, log_q_over_m)
                gradient = (1.0 - beta) * (gradient + p) * (log_q_over_m - moment)
            _store(gradient_ptr, start, classes, gradient * factor, slope, SOFTCAP, BLOCK)


@triton.jit
def write_zeros(gradient_ptr: tl.tensor, classes: tl.tensor, BLOCK: tl.constexpr) -> None:
    """Write a row of zeros."""
    for start in range(0, classes, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        tl.store(gradient_ptr + columns, tl.zeros([BLOCK], gradient_ptr.dtype.element_ty), mask=columns < classes)


@triton.jit
def _two_sums(a: tl.tensor, b: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Both sums with one exchange between the warps."""
    return tl.split(tl.sum(tl.join(a, b), 0))


@triton.jit
def _store(
    gradient_ptr: tl.tensor,
    start: tl.tensor,
    classes: tl.tensor,
    gradient: tl.tensor,
    slope: tl.tensor,
    SOFTCAP: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    columns = start + tl.arange(0, BLOCK)
    if SOFTCAP:
        gradient *= slope
    tl.store(gradient_ptr + columns, gradient.to(gradient_ptr.dtype.element_ty), mask=columns < classes)


@triton.jit
def _ratio(
    teacher_ptr: tl.tensor,
    other_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    other_bias_ptr: tl.tensor,
    start: tl.tensor,
    classes: tl.tensor,
    vocabulary: tl.tensor,
    log2_normalizer: tl.tensor,
    shift: tl.tensor,
    inverse_temperature: tl.tensor,
    softcap: tl.tensor,
    FROM_LOGITS: tl.constexpr,
    BIAS: tl.constexpr,
    SOFTCAP: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """P and its log2, u = log(q/p), and the cap's slope, of a block."""
    z, d, slope = load_block(
        teacher_ptr, other_ptr, bias_ptr, other_bias_ptr, start, classes, vocabulary, softcap,
        FROM_LOGITS, BIAS, SOFTCAP, BLOCK,
    )  # fmt: skip
    log2_p = z * (inverse_temperature * LOG2_E) - log2_normalizer
    return tl.exp2(log2_p), log2_p, d * inverse_temperature - shift, slope


@triton.jit
def _weighted_expm1(weight: tl.tensor, log2_weight: tl.tensor, x: tl.tensor) -> tl.tensor:
    """Weight * expm1(x); away from zero the weight is put into the exponent, so that nothing overflows."""
    far = tl.exp2(tl.minimum(log2_weight + x * LOG2_E, _LOG2_LIMIT, propagate_nan=_ALL)) - weight
    return tl.where(tl.abs(x) < _NEAR, weight * (x + x * x * exp_series(x)), far)


@triton.jit
def _moved(
    share: tl.tensor, log2_share: tl.tensor, distance: tl.tensor, excess: tl.tensor, spread: tl.tensor
) -> tuple[tl.tensor, tl.tensor]:
    """A block's part of K and S after its mean has moved by `distance`."""
    more = _weighted_expm1(share, log2_share, distance)
    own = tl.where(
        tl.abs(distance) < _NEAR, share * distance * distance * exp_series(distance), more - share * distance
    )
    grown = more + share
    return own + grown * excess, distance * more + grown * (spread + distance * excess)


@triton.jit
def _jensen_term(p: tl.tensor, change: tl.tensor, u: tl.tensor, curvature: tl.tensor, beta: tl.tensor) -> tl.tensor:
    """A class's part of the divergence, of second order: beta (1 - beta) (q - p) u - m g(u)."""
    return beta * (1.0 - beta) * change * u - (p + (1.0 - beta) * change) * curvature


@triton.jit
def _near_log_mean(u: tl.tensor, beta: tl.tensor) -> tl.tensor:
    """g(u) = log(beta exp(-(1 - beta) u) + (1 - beta) exp(beta u)) for |u| < 0.25: log(q/m) = beta u - g(u)."""
    alpha = 1.0 - beta
    w = (beta * alpha) * (u * u) * (alpha * exp_series(-alpha * u) + beta * exp_series(beta * u))
    return w * (1.0 + w * (-0.5 + w * (1 / 3 + w * (-0.25))))


@triton.jit
def _far_log_ratios(u: tl.tensor, beta: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """log(q/m) and log(m/p) for |u| >= 0.25; the exponential never overflows."""
    above = u >= 0.0
    inner = log1p(tl.where(above, beta, 1.0 - beta) * (tl.exp2(-tl.abs(u) * LOG2_E) - 1.0))
    return tl.where(above, 0.0, u) - inner, tl.where(above, u, 0.0) + inner


@triton.jit
def _capped(teacher: tl.tensor, difference: tl.tensor, cap: tl.tensor) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Capped teacher logits, capped difference and d(capped)/d(raw) of the student's logits.

    With t = teacher/cap and s = student/cap, tanh(s) - tanh(t) = sinh(s - t) / (cosh(s) cosh(t)), which loses nothing
    to rounding; all exponents are negative.
    """
    t = tl.abs(teacher) * (LOG2_E / cap)
    s = tl.abs(teacher + difference) * (LOG2_E / cap)
    x = tl.abs(difference) * (-2.0 / cap)
    teacher_fall, student_fall = tl.exp2(-2.0 * t), tl.exp2(-2.0 * s)
    reciprocal = 1.0 / ((1.0 + teacher_fall) * (1.0 + student_fall))
    of_teacher, of_student = reciprocal * (1.0 + student_fall), reciprocal * (1.0 + teacher_fall)
    tanh = (1.0 - teacher_fall) * of_teacher
    # 2 sinh(|s - t|) = -expm1(-2 |s - t|) exp(|s - t|), and |s - t| <= |s| + |t|.
    growth = tl.exp2(tl.minimum(x * (-0.5 * LOG2_E) - s - t, 0.0))
    size = (
        -tl.where(x > -_NEAR, x + x * x * exp_series(x), tl.exp2(x * LOG2_E) - 1.0) * growth * (2.0 * cap) * reciprocal
    )
    slope = 4.0 * student_fall * of_student * of_student
    return (
        cap * tl.where(teacher < 0.0, -tanh, tanh),
        tl.where(difference < 0.0, -size, size),
        slope,
    )
