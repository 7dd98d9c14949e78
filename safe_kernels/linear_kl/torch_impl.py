"""The linear divergence in PyTorch operations: logits are formed for a chunk of tokens at a time, never [N, V]."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from safe_kernels._divergence.inputs import Measure
from safe_kernels._divergence.torch_impl import divergence_, slice_scratch, slices
from safe_kernels._dtypes import accumulation_dtype
from safe_kernels.linear_kl import vocabulary_parallel
from safe_kernels.linear_kl.heads import LinearHeads

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_CHUNK_BYTES = 2**24
"""Default size of one chunk of logits; two are held. Larger ones speed up the matrix products by a few percent more."""

_MINIMUM_CHUNK = 64

_GROUP_CHUNK = 512
"""Default tokens a chunk where the classes are shared out: all processes must cut alike, whatever their slices."""

_SLICE_ELEMENTS = 5 * 2**16
"""Elements of a chunk worked on at a time: the temporaries add an eighth to the two chunks. Larger slices save nothing
here, where the matrix products take most of the time."""

_CAST_ROWS = 4096
"""Rows of a half-precision head converted to float32 at a time, so that no second copy of the head is made."""


def linear_divergence(
    student: Tensor,
    teacher: Tensor,
    heads: LinearHeads,
    measure: Measure,
    chunk_tokens: int | None,
    want_gradient: bool,
    group: ProcessGroup | None = None,
) -> tuple[Tensor, Tensor]:
    """Divergence of each token and its gradient with respect to the student's hidden state.

    With a group, the heads are this process's slice of the classes; the results are those of the whole.

    Returns:
        [N] divergences times the squared temperature, and [N, H] gradients ([0, H] without `want_gradient`), both in
        float32 (float64 for float64 inputs).
    """
    tokens = student.shape[0]
    vocabulary = heads.weight.shape[0]
    dtype = accumulation_dtype(student.dtype)
    largest = default_chunk(vocabulary, dtype) if group is None else _GROUP_CHUNK
    chunk = _even_chunk(tokens, chunk_tokens or largest)
    values = student.new_empty(tokens, dtype=dtype)
    gradient = student.new_empty((tokens if want_gradient else 0, student.shape[1]), dtype=dtype)
    memory = student.new_empty(2 * chunk * vocabulary, dtype=dtype)
    scratch = slice_scratch(chunk, vocabulary, _SLICE_ELEMENTS, memory)
    scale = 1.0 / heads.temperature
    for part in slices(tokens, chunk):
        size = part.stop - part.start
        logits, difference = pair = memory[: 2 * size * vocabulary].view(2, size, vocabulary)
        _fill_logits_and_difference(pair, student[part].to(dtype), teacher[part].to(dtype), heads)
        slope = None if heads.softcap is None else _softcap_(logits, difference, heads.softcap)
        if scale != 1.0:
            pair.mul_(scale)
        if group is None:
            values[part] = divergence_(logits, difference, measure, want_gradient, scratch)
        else:
            values[part] = vocabulary_parallel.divergence_(logits, difference, measure, want_gradient, group)
        if want_gradient:
            if slope is not None:
                difference.mul_(slope)
            _project(difference, heads.weight, gradient[part])
    if group is not None and want_gradient:
        torch.distributed.all_reduce(gradient, group=group)
    values.mul_(heads.temperature**2)
    gradient.mul_(heads.temperature)
    return values, gradient


def default_chunk(vocabulary: int, dtype: torch.dtype) -> int:
    """Tokens a chunk by default: as many as `_CHUNK_BYTES` of logits hold, but at least 64."""
    return max(_MINIMUM_CHUNK, _CHUNK_BYTES // (max(1, vocabulary) * dtype.itemsize))


def _even_chunk(tokens: int, largest: int) -> int:
    """Chunks of one size, at most the largest: a short last one would cost as much as a long one."""
    count = max(1, -(-tokens // largest))
    return max(1, -(-tokens // count))


def _fill_logits_and_difference(pair: Tensor, student: Tensor, teacher: Tensor, heads: LinearHeads) -> None:
    """Fill the teacher's logits and what the student's exceed them by, before cap and temperature.

    A shared head is applied to both in one product: it is then prepared for multiplication once and not twice.
    """
    logits, difference = pair
    if heads.teacher_weight is None:
        _apply_head(torch.cat((teacher, student - teacher)), heads.weight, pair.flatten(0, 1))
        if heads.bias is not None:
            logits.add_(heads.bias)
        return
    for hidden, weight, bias, out in (
        (teacher, heads.teacher_weight, heads.teacher_bias, logits),
        (student, heads.weight, heads.bias, difference),
    ):
        _apply_head(hidden, weight, out)
        if bias is not None:
            out.add_(bias)
    both_exclude = torch.isneginf(difference) & torch.isneginf(logits) if heads.teacher_bias is not None else None
    difference.sub_(logits)
    if both_exclude is not None:
        difference.masked_fill_(both_exclude, 0.0)


def _apply_head(hidden: Tensor, weight: Tensor, out: Tensor) -> None:
    """`out = hidden @ weight.T`."""
    if weight.dtype == out.dtype:
        torch.mm(hidden, weight.t(), out=out)
    else:
        for start in range(0, weight.shape[0], _CAST_ROWS):
            rows = slice(start, start + _CAST_ROWS)
            out[:, rows] = hidden @ weight[rows].to(out.dtype).t()


def _project(logit_gradient: Tensor, weight: Tensor, out: Tensor) -> None:
    """`out = logit_gradient @ weight`."""
    if weight.dtype == out.dtype:
        torch.mm(logit_gradient, weight, out=out)
        return
    out.zero_()
    for start in range(0, weight.shape[0], _CAST_ROWS):
        rows = slice(start, start + _CAST_ROWS)
        out.addmm_(logit_gradient[:, rows], weight[rows].to(out.dtype))


def _softcap_(logits: Tensor, difference: Tensor, cap: float) -> Tensor:
    """Cap the teacher's logits and the difference in place; returns d(capped)/d(raw) of the student's logits.

    `tanh(a) - tanh(b) = tanh(a - b) (1 - tanh(a) tanh(b))`, so the difference is capped without being lost to rounding.
    """
    student_tanh = torch.tanh((logits + difference) / cap)
    teacher_tanh = logits.div_(cap).tanh_()
    difference.div_(cap).tanh_().mul_((student_tanh * teacher_tanh).neg_().add_(1.0)).mul_(cap)
    teacher_tanh.mul_(cap)
    return student_tanh.square_().neg_().add_(1.0)
