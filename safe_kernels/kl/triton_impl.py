"""Launches of the Triton kernels for given logits."""

from __future__ import annotations

import torch
from torch import Tensor

from safe_kernels._divergence.inputs import Measure
from safe_kernels._divergence.triton_impl import (
    DIVERGENCE_CODES,
    block_count,
    choose_block,
    launch_rows,
    mask_argument,
)
from safe_kernels.kl.kernels import STATISTICS, logits_backward_kernel, logits_forward_kernel


def logits_divergence(
    student: Tensor, teacher: Tensor, mask: Tensor | None, temperature: float, measure: Measure
) -> tuple[Tensor, Tensor]:
    """Divergence [N] times the squared temperature and statistics [N, 4]; zero where masked."""
    rows, classes = student.shape
    values = student.new_empty(rows, dtype=torch.float32)
    found = student.new_empty((rows, int(STATISTICS)), dtype=torch.float32)
    if student.numel() == 0:
        return values.zero_(), found.zero_()
    student, teacher = _by_rows(student), _by_rows(teacher)
    launch_rows(
        logits_forward_kernel,
        rows,
        student,
        teacher,
        mask_argument(mask, values),
        values,
        found,
        student.stride(0),
        teacher.stride(0),
        classes,
        1.0 / temperature,
        measure.beta,
        DIVERGENCE=DIVERGENCE_CODES[measure.name],
        MASKED=mask is not None,
        BLOCKS=block_count(classes, choose_block(measure.name)),
        BLOCK=choose_block(measure.name),
        device=values.device,
    )
    return values, found


def logits_gradient(
    upstream: Tensor,
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    found: Tensor,
    temperature: float,
    measure: Measure,
) -> Tensor:
    """Gradient [N, V] with respect to the student's logits; zero where masked."""
    rows, classes = student.shape
    gradient = torch.empty_like(student, memory_format=torch.contiguous_format)
    if student.numel() == 0:
        return gradient
    student, teacher = _by_rows(student), _by_rows(teacher)
    launch_rows(
        logits_backward_kernel,
        rows,
        upstream.contiguous(),
        student,
        teacher,
        mask_argument(mask, found),
        found,
        gradient,
        student.stride(0),
        teacher.stride(0),
        classes,
        1.0 / temperature,
        measure.beta,
        DIVERGENCE=DIVERGENCE_CODES[measure.name],
        MASKED=mask is not None,
        BLOCK=choose_block(measure.name),
        device=gradient.device,
    )
    return gradient


def _by_rows(logits: Tensor) -> Tensor:
    """Logits whose rows are contiguous; between the rows there may be a gap."""
    return logits if logits.stride(1) == 1 and logits.stride(0) >= logits.shape[1] else logits.contiguous()
