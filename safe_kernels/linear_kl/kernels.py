"""Triton kernels of the divergence under a head: one program a row of a chunk of logits, whole or a slice."""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false, reportAttributeAccessIssue=false
# Kernels are a language of their own in Python's syntax: a call returns what its body computes, which Python's types
# cannot say.

from __future__ import annotations

import triton
import triton.language as tl

from safe_kernels._divergence.kernels import (
    LN_2,
    LOG2_E,
    REVERSE,
    SATURATED,
    jensen_shannon,
    statistics,
    student_normalizer,
    summary,
    write_gradient,
    write_zeros,
)
from safe_kernels._triton import log1p


@triton.jit
def difference_kernel(
    teacher_ptr: tl.tensor,
    other_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    other_bias_ptr: tl.tensor,
    mask_ptr: tl.tensor,
    values_ptr: tl.tensor,
    scales_ptr: tl.tensor,
    classes: tl.tensor,
    vocabulary: tl.tensor,
    inverse_temperature: tl.tensor,
    softcap: tl.tensor,
    beta: tl.tensor,
    DIVERGENCE: tl.constexpr,
    FROM_LOGITS: tl.constexpr,
    BIAS: tl.constexpr,
    MASKED: tl.constexpr,
    SOFTCAP: tl.constexpr,
    WANT_GRADIENT: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Divergence of a row of teacher logits and differences; its gradient, over a scale, replaces the differences.

    With FROM_LOGITS the differences' row holds the student's logits. The gradient's entries are far below the smallest
    float16 where student and teacher are close. By Pinsker's inequality sum |q - p| <= sqrt(2 KL(p||q)): that bound is
    the scale, which is multiplied in after the last product.
    """
    row = tl.program_id(0).to(tl.int64)
    counts = True
    if MASKED:
        counts = tl.load(mask_ptr + row) != 0
    teacher_ptr += row * classes
    other_ptr += row * classes
    if counts:
        value, log2_normalizer, shift, moment, reach, forward = statistics(
            teacher_ptr, other_ptr, bias_ptr, other_bias_ptr, classes, vocabulary, inverse_temperature, softcap, beta,
            DIVERGENCE, FROM_LOGITS, BIAS, SOFTCAP, BLOCKS, BLOCK,
        )  # fmt: skip
        tl.store(values_ptr + row, value / (inverse_temperature * inverse_temperature))
        if WANT_GRADIENT:
            scale = tl.sqrt(2.0 * tl.minimum(tl.maximum(forward, 1e-30), 0.5))
            tl.store(scales_ptr + row, scale / inverse_temperature)
            write_gradient(
                other_ptr, teacher_ptr, other_ptr, bias_ptr, other_bias_ptr, classes, vocabulary,
                log2_normalizer, shift, moment, reach, 1.0 / scale, inverse_temperature, softcap, beta,
                DIVERGENCE, FROM_LOGITS, BIAS, SOFTCAP, BLOCK,
            )  # fmt: skip
    else:
        tl.store(values_ptr + row, 0.0)
        if WANT_GRADIENT:
            tl.store(scales_ptr + row, 0.0)
            write_zeros(other_ptr, classes, BLOCK)


@triton.jit
def slice_summary_kernel(
    teacher_ptr: tl.tensor,
    other_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    other_bias_ptr: tl.tensor,
    mask_ptr: tl.tensor,
    found_ptr: tl.tensor,
    rows: tl.tensor,
    classes: tl.tensor,
    vocabulary: tl.tensor,
    inverse_temperature: tl.tensor,
    softcap: tl.tensor,
    FROM_LOGITS: tl.constexpr,
    BIAS: tl.constexpr,
    MASKED: tl.constexpr,
    SOFTCAP: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """What `vocabulary_parallel.merge` takes of a slice of a row, [7, rows]; zeros where masked."""
    row = tl.program_id(0).to(tl.int64)
    counts = True
    if MASKED:
        counts = tl.load(mask_ptr + row) != 0
    teacher_ptr += row * classes
    other_ptr += row * classes
    normalizer, mean, excess, spread, of_student, student_mean, reach = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    if counts:
        log2_normalizer, mean, excess, spread, reach = summary(
            teacher_ptr, other_ptr, bias_ptr, other_bias_ptr, classes, vocabulary, inverse_temperature, softcap,
            REVERSE, FROM_LOGITS, BIAS, SOFTCAP, BLOCKS, BLOCK,
        )  # fmt: skip
        normalizer = log2_normalizer * LN_2
        of_student = normalizer + mean + log1p(excess)
        student_mean = mean + spread / (1.0 + excess)
        if excess > SATURATED:
            of_student, student_mean = student_normalizer(
                teacher_ptr, other_ptr, bias_ptr, other_bias_ptr, classes, vocabulary, inverse_temperature, softcap,
                FROM_LOGITS, BIAS, SOFTCAP, BLOCK,
            )  # fmt: skip
            of_student *= LN_2
    found_ptr += row
    tl.store(found_ptr, normalizer)
    tl.store(found_ptr + rows, mean)
    tl.store(found_ptr + 2 * rows, excess)
    tl.store(found_ptr + 3 * rows, spread)
    tl.store(found_ptr + 4 * rows, of_student)
    tl.store(found_ptr + 5 * rows, student_mean)
    tl.store(found_ptr + 6 * rows, reach)


@triton.jit
def slice_mixture_kernel(
    teacher_ptr: tl.tensor,
    other_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    other_bias_ptr: tl.tensor,
    mask_ptr: tl.tensor,
    statistics_ptr: tl.tensor,
    sums_ptr: tl.tensor,
    rows: tl.tensor,
    classes: tl.tensor,
    vocabulary: tl.tensor,
    inverse_temperature: tl.tensor,
    softcap: tl.tensor,
    beta: tl.tensor,
    FROM_LOGITS: tl.constexpr,
    BIAS: tl.constexpr,
    MASKED: tl.constexpr,
    SOFTCAP: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """The two sums of jsd over a slice of a row, [2, rows]; `statistics` [3, rows]: normalizer, shift, reach."""
    row = tl.program_id(0).to(tl.int64)
    counts = True
    if MASKED:
        counts = tl.load(mask_ptr + row) != 0
    value, moment = 0.0, 0.0
    if counts:
        value, moment = jensen_shannon(
            teacher_ptr + row * classes, other_ptr + row * classes, bias_ptr, other_bias_ptr, classes, vocabulary,
            tl.load(statistics_ptr + row) * LOG2_E, tl.load(statistics_ptr + rows + row),
            tl.load(statistics_ptr + 2 * rows + row), inverse_temperature, softcap, beta,
            FROM_LOGITS, BIAS, SOFTCAP, BLOCK,
        )  # fmt: skip
    tl.store(sums_ptr + row, value)
    tl.store(sums_ptr + rows + row, moment)


@triton.jit
def slice_gradient_kernel(
    teacher_ptr: tl.tensor,
    other_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    other_bias_ptr: tl.tensor,
    mask_ptr: tl.tensor,
    statistics_ptr: tl.tensor,
    moment_ptr: tl.tensor,
    scales_ptr: tl.tensor,
    rows: tl.tensor,
    classes: tl.tensor,
    vocabulary: tl.tensor,
    inverse_temperature: tl.tensor,
    softcap: tl.tensor,
    beta: tl.tensor,
    DIVERGENCE: tl.constexpr,
    FROM_LOGITS: tl.constexpr,
    BIAS: tl.constexpr,
    MASKED: tl.constexpr,
    SOFTCAP: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """The gradient with respect to a slice of a row, over its scale, in the place of the differences."""
    row = tl.program_id(0).to(tl.int64)
    counts = True
    if MASKED:
        counts = tl.load(mask_ptr + row) != 0
    other_ptr += row * classes
    if counts:
        write_gradient(
            other_ptr, teacher_ptr + row * classes, other_ptr, bias_ptr, other_bias_ptr, classes, vocabulary,
            tl.load(statistics_ptr + row) * LOG2_E, tl.load(statistics_ptr + rows + row), tl.load(moment_ptr + row),
            tl.load(statistics_ptr + 2 * rows + row), 1.0 / tl.load(scales_ptr + row), inverse_temperature, softcap,
            beta, DIVERGENCE, FROM_LOGITS, BIAS, SOFTCAP, BLOCK,
        )  # fmt: skip
    else:
        write_zeros(other_ptr, classes, BLOCK)
