"""Triton kernels of the divergences: one program a row of logits."""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false, reportAttributeAccessIssue=false
# Kernels are a language of their own in Python's syntax: a call returns what its body computes, which Python's types
# cannot say.

from __future__ import annotations

import triton
import triton.language as tl

from safe_kernels.kl._rows import statistics, write_gradient, write_zeros


@triton.jit
def logits_forward_kernel(
    student_ptr: tl.tensor,
    teacher_ptr: tl.tensor,
    mask_ptr: tl.tensor,
    values_ptr: tl.tensor,
    statistics_ptr: tl.tensor,
    classes: tl.tensor,
    inverse_temperature: tl.tensor,
    DIVERGENCE: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Divergence and [normalizer, shift, moment] of a row of student and teacher logits; zeros where masked."""
    row = tl.program_id(0).to(tl.int64)
    counts = True
    if MASKED:
        counts = tl.load(mask_ptr + row) != 0
    if counts:
        value, normalizer, shift, moment, _ = statistics(
            teacher_ptr + row * classes,
            student_ptr + row * classes,
            classes,
            inverse_temperature,
            1.0,
            DIVERGENCE,
            True,
            False,
            BLOCK,
        )
        tl.store(values_ptr + row, value / (inverse_temperature * inverse_temperature))
        tl.store(statistics_ptr + row * 3, normalizer)
        tl.store(statistics_ptr + row * 3 + 1, shift)
        tl.store(statistics_ptr + row * 3 + 2, moment)
    else:
        tl.store(values_ptr + row, 0.0)
        tl.store(statistics_ptr + row * 3, 0.0)
        tl.store(statistics_ptr + row * 3 + 1, 0.0)
        tl.store(statistics_ptr + row * 3 + 2, 0.0)


@triton.jit
def logits_backward_kernel(
    upstream_ptr: tl.tensor,
    student_ptr: tl.tensor,
    teacher_ptr: tl.tensor,
    mask_ptr: tl.tensor,
    statistics_ptr: tl.tensor,
    gradient_ptr: tl.tensor,
    classes: tl.tensor,
    inverse_temperature: tl.tensor,
    DIVERGENCE: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Gradient of a row with respect to the student's logits."""
    row = tl.program_id(0).to(tl.int64)
    counts = True
    if MASKED:
        counts = tl.load(mask_ptr + row) != 0
    if counts:
        write_gradient(
            gradient_ptr + row * classes,
            teacher_ptr + row * classes,
            student_ptr + row * classes,
            classes,
            tl.load(statistics_ptr + row * 3),
            tl.load(statistics_ptr + row * 3 + 1),
            tl.load(statistics_ptr + row * 3 + 2),
            tl.load(upstream_ptr + row) / inverse_temperature,
            inverse_temperature,
            1.0,
            DIVERGENCE,
            True,
            False,
            BLOCK,
        )
    else:
        write_zeros(gradient_ptr + row * classes, classes, BLOCK)


@triton.jit
def difference_kernel(
    teacher_ptr: tl.tensor,
    difference_ptr: tl.tensor,
    mask_ptr: tl.tensor,
    values_ptr: tl.tensor,
    scales_ptr: tl.tensor,
    classes: tl.tensor,
    inverse_temperature: tl.tensor,
    softcap: tl.tensor,
    DIVERGENCE: tl.constexpr,
    MASKED: tl.constexpr,
    SOFTCAP: tl.constexpr,
    WANT_GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Divergence of a row of teacher logits and differences; its gradient, over a scale, replaces the differences.

    The gradient's entries are far below the smallest float16 where student and teacher are close. By Pinsker's
    inequality sum |q - p| <= sqrt(2 KL(p||q)): that bound is the scale, which is multiplied in after the last product.
    """
    row = tl.program_id(0).to(tl.int64)
    counts = True
    if MASKED:
        counts = tl.load(mask_ptr + row) != 0
    if counts:
        value, normalizer, shift, moment, forward = statistics(
            teacher_ptr + row * classes,
            difference_ptr + row * classes,
            classes,
            inverse_temperature,
            softcap,
            DIVERGENCE,
            False,
            SOFTCAP,
            BLOCK,
        )
        tl.store(values_ptr + row, value / (inverse_temperature * inverse_temperature))
        if WANT_GRADIENT:
            scale = tl.sqrt(2.0 * tl.minimum(tl.maximum(forward, 1e-30), 0.5))
            tl.store(scales_ptr + row, scale / inverse_temperature)
            write_gradient(
                difference_ptr + row * classes,
                teacher_ptr + row * classes,
                difference_ptr + row * classes,
                classes,
                normalizer,
                shift,
                moment,
                1.0 / scale,
                inverse_temperature,
                softcap,
                DIVERGENCE,
                False,
                SOFTCAP,
                BLOCK,
            )
    else:
        tl.store(values_ptr + row, 0.0)
        if WANT_GRADIENT:
            tl.store(scales_ptr + row, 0.0)
            write_zeros(difference_ptr + row * classes, classes, BLOCK)
