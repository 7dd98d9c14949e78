"""Triton kernels of the divergence of given logits: one program a row."""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false, reportAttributeAccessIssue=false
# Kernels are a language of their own in Python's syntax: a call returns what its body computes, which Python's types
# cannot say.

from __future__ import annotations

import triton
import triton.language as tl

from safe_kernels._divergence.kernels import statistics, write_gradient, write_zeros

STATISTICS: tl.constexpr = tl.constexpr(4)
"""Numbers kept of a row for its gradient: log2-normalizer, shift, moment, reach."""


@triton.jit
def logits_forward_kernel(
    student_ptr: tl.tensor,
    teacher_ptr: tl.tensor,
    mask_ptr: tl.tensor,
    values_ptr: tl.tensor,
    statistics_ptr: tl.tensor,
    student_stride: tl.tensor,
    teacher_stride: tl.tensor,
    classes: tl.tensor,
    inverse_temperature: tl.tensor,
    beta: tl.tensor,
    DIVERGENCE: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Divergence and statistics of a row of student and teacher logits; zeros where masked."""
    row = tl.program_id(0).to(tl.int64)
    counts = True
    if MASKED:
        counts = tl.load(mask_ptr + row) != 0
    value, log2_normalizer, shift, moment, reach = 0.0, 0.0, 0.0, 0.0, 0.0
    if counts:
        value, log2_normalizer, shift, moment, reach, _ = statistics(
            teacher_ptr + row * teacher_stride, student_ptr + row * student_stride, teacher_ptr, teacher_ptr,
            classes, classes, inverse_temperature, 1.0, beta, DIVERGENCE, True, False, False, BLOCKS, BLOCK,
        )  # fmt: skip
    tl.store(values_ptr + row, value / (inverse_temperature * inverse_temperature))
    statistics_ptr += row * STATISTICS
    tl.store(statistics_ptr, log2_normalizer)
    tl.store(statistics_ptr + 1, shift)
    tl.store(statistics_ptr + 2, moment)
    tl.store(statistics_ptr + 3, reach)


@triton.jit
def logits_backward_kernel(
    upstream_ptr: tl.tensor,
    student_ptr: tl.tensor,
    teacher_ptr: tl.tensor,
    mask_ptr: tl.tensor,
    statistics_ptr: tl.tensor,
    gradient_ptr: tl.tensor,
    student_stride: tl.tensor,
    teacher_stride: tl.tensor,
    classes: tl.tensor,
    inverse_temperature: tl.tensor,
    beta: tl.tensor,
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
        statistics_ptr += row * STATISTICS
        write_gradient(
            gradient_ptr + row * classes, teacher_ptr + row * teacher_stride, student_ptr + row * student_stride,
            teacher_ptr, teacher_ptr, classes, classes,
            tl.load(statistics_ptr), tl.load(statistics_ptr + 1), tl.load(statistics_ptr + 2),
            tl.load(statistics_ptr + 3), tl.load(upstream_ptr + row) / inverse_temperature,
            inverse_temperature, 1.0, beta, DIVERGENCE, True, False, False, BLOCK,
        )  # fmt: skip
    else:
        write_zeros(gradient_ptr + row * classes, classes, BLOCK)
