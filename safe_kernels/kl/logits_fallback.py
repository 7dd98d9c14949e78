"""The divergence of given logits in PyTorch operations, a slice of rows at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from safe_kernels.kl.fallback import row_gradient_, row_slices, row_statistics_


def logits_divergence(student: Tensor, teacher: Tensor, temperature: float, divergence: str) -> tuple[Tensor, Tensor]:
    """Divergence of each row and what its gradient needs.

    Returns:
        [N] divergences in nats, and [N, 3] statistics: log of the teacher's normalizer, shift, moment.
    """
    rows, _ = student.shape
    dtype = torch.float64 if student.dtype == torch.float64 else torch.float32
    values = student.new_empty(rows, dtype=dtype)
    statistics = student.new_empty((rows, 3), dtype=dtype)
    for part in row_slices(*student.shape):
        logits, difference = _logits_and_difference(student[part], teacher[part], temperature, dtype)
        largest = logits.amax(dim=-1)
        found = row_statistics_(logits, difference, divergence)
        values[part] = found.value
        statistics[part] = torch.stack((largest - logits.amax(dim=-1), found.shift, found.moment), dim=-1)
    return values, statistics


def logits_gradient(
    scale: Tensor, student: Tensor, teacher: Tensor, statistics: Tensor, temperature: float, divergence: str
) -> Tensor:
    """Gradient [N, V] of `sum(scale * divergence)` with respect to the student's logits over the temperature.

    The gradient has the student's dtype; a row with scale zero is exactly zero.
    """
    gradient = torch.empty_like(student, memory_format=torch.contiguous_format)
    for part in row_slices(*student.shape):
        logits, difference = _logits_and_difference(student[part], teacher[part], temperature, statistics.dtype)
        normalizer, shift, moment = statistics[part].unbind(dim=-1)
        log_p, log_ratio = logits.sub_(normalizer.unsqueeze(-1)), difference.sub_(shift.unsqueeze(-1))
        row_gradient_(log_p, log_ratio, moment, divergence)
        gradient[part] = log_ratio.mul_(scale[part].unsqueeze(-1))
    return gradient


def _logits_and_difference(
    student: Tensor, teacher: Tensor, temperature: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    scale = 1.0 / temperature
    logits = teacher.to(dtype).mul(scale)
    difference = torch.sub(student.to(dtype), teacher.to(dtype)).mul_(scale)
    if logits.numel() and logits.amin() == -float("inf"):
        # A class that both exclude is no difference; -inf minus -inf would be NaN.
        difference.masked_fill_(torch.isneginf(logits) & torch.isneginf(student), 0.0)
    return logits, difference
