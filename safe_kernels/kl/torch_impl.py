"""The divergence of given logits in PyTorch operations, a slice of rows at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from safe_kernels._divergence.inputs import Measure
from safe_kernels._divergence.torch_impl import (
    SLICE_ELEMENTS,
    divergence_,
    ignore_excluded_,
    slice_scratch,
    slices,
)
from safe_kernels._dtypes import accumulation_dtype


def logits_divergence(
    student: Tensor, teacher: Tensor, temperature: float, measure: Measure, want_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Divergence of each row and its gradient with respect to the student's logits, both over the temperature.

    The gradient is formed together with the value, in one pass. It is kept in float32: in half precision the small
    numbers that it is made of would be lost before they are multiplied by a loss scale.

    Returns:
        [N] divergences in nats and [N, V] gradients ([0, V] without `want_gradient`), float32 (float64 for float64).
    """
    dtype = accumulation_dtype(student.dtype)
    rows, classes = student.shape
    values = student.new_empty(rows, dtype=dtype)
    gradient = student.new_empty((rows if want_gradient else 0, classes), dtype=dtype)
    scratch = slice_scratch(rows, classes, SLICE_ELEMENTS, values)
    logits, difference = torch.empty_like(scratch[:2])
    for part in slices(rows, scratch.shape[1]):
        z = logits[: len(student[part])]
        d = gradient[part] if want_gradient else difference[: len(z)]
        _load(z, d, student[part], teacher[part], 1.0 / temperature)
        values[part] = divergence_(z, d, measure, want_gradient, scratch)
    return values, gradient


def _load(logits: Tensor, difference: Tensor, student: Tensor, teacher: Tensor, scale: float) -> None:
    """Fill the teacher's logits and what the student's exceed them by, times `scale`."""
    logits.copy_(teacher)
    if student.dtype == difference.dtype:
        torch.sub(student, logits, out=difference)
    else:
        difference.copy_(student).sub_(logits)
    ignore_excluded_(difference, student, logits)
    if scale != 1.0:
        logits.mul_(scale)
        difference.mul_(scale)
