"""Launches of the Triton kernels under a head: a chunk of tokens at a time, one program a row of its logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
from safe_kernels._triton import cdiv
from safe_kernels.linear_kl import vocabulary_parallel
from safe_kernels.linear_kl.heads import LinearHeads
from safe_kernels.linear_kl.kernels import (
    difference_kernel,
    slice_gradient_kernel,
    slice_mixture_kernel,
    slice_summary_kernel,
)

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


_PAIR_BYTES = 1_250_000_000
"""Default size of one chunk's logits and differences together: 2048 tokens at V = 152064 in half precision."""

_MINIMUM_CHUNK = 128
_MAXIMUM_CHUNK = 8192
_TOKEN_STEP = 256
"""Chunks above this are multiples of it: matrix products work in tiles of 128 or 256 rows."""

_GROUP_CHUNK = 2048
"""Default tokens a chunk where the classes are shared out: all processes must cut alike, whatever their slices."""

_ROW_STEP = 16
"""Rows of logits are padded to a multiple of this, so that each begins where 128-bit loads may."""


def linear_divergence(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    heads: LinearHeads,
    measure: Measure,
    chunk_tokens: int | None,
    want_gradient: bool,
    group: ProcessGroup | None = None,
) -> tuple[Tensor, Tensor]:
    """Divergence [N] times the squared temperature and its gradient [N, H] ([0, H] unless wanted), float32.

    With a group, the heads are this process's slice of the classes; the results are those of the whole.
    """
    tokens, hidden = student.shape
    vocabulary = heads.weight.shape[0]
    values = student.new_empty(tokens, dtype=torch.float32)
    gradient = student.new_empty((tokens if want_gradient else 0, hidden), dtype=torch.float32)
    if tokens == 0 or vocabulary == 0:
        return values.zero_(), gradient.zero_()
    logits = LogitRows(tokens, chunk_tokens or (None if group is None else _GROUP_CHUNK), heads)
    scales = student.new_empty(logits.chunk, dtype=torch.float32)
    for start in range(0, tokens, logits.chunk):
        part = slice(start, min(start + logits.chunk, tokens))
        rows = _Rows(*logits.fill(student[part], teacher[part]), None if mask is None else mask[part], logits, measure)
        size = part.stop - part.start
        if group is None:
            rows.divergence(values[part], scales[:size], want_gradient)
        else:
            rows.shared_divergence(values[part], scales[:size], want_gradient, group)
        if want_gradient:
            product(rows.other[:, :vocabulary].to(heads.weight.dtype), heads.weight, gradient[part])
            gradient[part].mul_(scales[:size].unsqueeze(-1))
    if group is not None and want_gradient:
        torch.distributed.all_reduce(gradient, group=group)
    return values, gradient


class LogitRows:
    """Memory for the teacher's logits of a chunk of tokens, and for the differences or the student's logits.

    A shared head's logits keep the head's dtype: the difference form loses nothing by it. Two heads' must not. Rows are
    padded to `width` with classes that do not exist: logit -inf, difference zero.
    """

    def __init__(self, tokens: int, chunk_tokens: int | None, heads: LinearHeads) -> None:
        self.heads = heads
        self.separate = heads.teacher_weight is not None
        self.vocabulary = heads.weight.shape[0]
        self.width = cdiv(self.vocabulary, _ROW_STEP) * _ROW_STEP
        dtype = torch.float32 if self.separate else heads.weight.dtype
        self.chunk = even_chunk(tokens, chunk_tokens or default_chunk(self.vocabulary, dtype))
        self.memory = heads.weight.new_empty((2 * self.chunk, self.width), dtype=dtype)
        self.states = heads.weight.new_empty((0 if self.separate else 2 * self.chunk, heads.weight.shape[1]))
        self.padded = 0
        self.biases = _biases(heads)

    def fill(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Teacher logits [n, width], and differences (a shared head) or student logits (two heads) [n, width]."""
        size = len(student)
        pair = self.memory[: 2 * size]
        if size != self.padded:
            pair[:size, self.vocabulary :] = -torch.inf
            pair[size:, self.vocabulary :] = -torch.inf if self.separate else 0.0
            self.padded = size
        out = pair[:, : self.vocabulary]
        if self.heads.teacher_weight is None:
            # One product reads the head once for both.
            states = self.states[: 2 * size]
            states[:size].copy_(teacher)
            torch.sub(student, teacher, out=states[size:])
            product(states, self.heads.weight.t(), out)
        else:
            dtype = self.heads.weight.dtype
            product(teacher.to(dtype), self.heads.teacher_weight.t(), out[:size])
            product(student.to(dtype), self.heads.weight.t(), out[size:])
        return pair[:size], pair[size:]


class _Rows:
    """The launches on the rows of a chunk."""

    def __init__(
        self, teacher: Tensor, other: Tensor, mask: Tensor | None, logits: LogitRows, measure: Measure
    ) -> None:
        self.teacher, self.other, self.measure = teacher, other, measure
        self.sizes = (logits.width, logits.vocabulary, 1.0 / logits.heads.temperature, logits.heads.softcap or 1.0)
        self.inverse_temperature = self.sizes[2]
        bias, other_bias = logits.biases
        # A kernel compiled without biases or a mask gets pointers that it does not read.
        self.tensors = (
            teacher,
            other,
            teacher if bias is None else bias,
            teacher if other_bias is None else other_bias,
            mask_argument(mask, teacher),
        )
        self.block = choose_block(measure.name)
        self.blocks = block_count(logits.vocabulary, self.block)
        self.constants = {
            "FROM_LOGITS": logits.separate,
            "BIAS": bias is not None,
            "MASKED": mask is not None,
            "SOFTCAP": logits.heads.softcap is not None,
            "BLOCK": self.block,
        }

    def divergence(self, values: Tensor, scales: Tensor, want_gradient: bool) -> None:
        """Fill the values and, with the gradient, the scales; the gradient replaces the differences."""
        self._launch(
            difference_kernel, values, scales, *self.sizes, self.measure.beta,
            DIVERGENCE=DIVERGENCE_CODES[self.measure.name], WANT_GRADIENT=want_gradient, BLOCKS=self.blocks,
        )  # fmt: skip

    def shared_divergence(self, values: Tensor, scales: Tensor, want_gradient: bool, group: ProcessGroup) -> None:
        """The same of rows of which this process has a slice of the classes."""
        rows = len(values)
        found = values.new_empty((7, rows))
        self._launch(slice_summary_kernel, found, rows, *self.sizes, BLOCKS=self.blocks)
        whole = vocabulary_parallel.merge(found, group)
        statistics = torch.stack((whole.normalizer, whole.shift, whole.reach)).float()
        value = (whole.reverse if self.measure.name == "reverse" else whole.forward).float()
        moment = value
        if self.measure.name == "jsd":
            sums = values.new_empty((2, rows))
            self._launch(slice_mixture_kernel, statistics, sums, rows, *self.sizes, self.measure.beta)
            torch.distributed.all_reduce(sums, group=group)
            value, moment = sums[0].clamp_min(0.0), sums[1]
        torch.mul(value, 1.0 / self.inverse_temperature**2, out=values)
        if want_gradient:
            # Pinsker's bound, as in `difference_kernel`.
            scale = whole.forward.clamp(1e-30, 0.5).mul(2.0).sqrt().float()
            self._launch(
                slice_gradient_kernel, statistics, moment, scale, rows, *self.sizes, self.measure.beta,
                DIVERGENCE=DIVERGENCE_CODES[self.measure.name],
            )  # fmt: skip
            torch.mul(scale, 1.0 / self.inverse_temperature, out=scales)

    def _launch(self, kernel: Any, *arguments: Any, **constants: Any) -> None:
        launch_rows(
            kernel, len(self.teacher), *self.tensors, *arguments, **self.constants, **constants,
            device=self.teacher.device,
        )  # fmt: skip


def product(a: Tensor, b: Tensor, out: Tensor) -> None:
    """`out = a @ b`; half-precision operands may have a float32 result, on the GPU without a float32 copy of them."""
    if out.dtype == a.dtype:
        torch.mm(a, b, out=out)
    elif a.device.type == "cpu":
        torch.mm(a.float(), b.float(), out=out)
    else:
        torch.ops.aten.mm.dtype_out(a, b, torch.float32, out=out)


def default_chunk(vocabulary: int, dtype: torch.dtype) -> int:
    """Tokens a chunk by default: logits and differences of 1.25 GB, between 128 and 8192 tokens."""
    fitting = _PAIR_BYTES // (2 * vocabulary * dtype.itemsize)
    if fitting > _TOKEN_STEP:
        fitting -= fitting % _TOKEN_STEP
    return min(_MAXIMUM_CHUNK, max(_MINIMUM_CHUNK, fitting))


def even_chunk(tokens: int, largest: int) -> int:
    """Chunks of one size, at most the largest, a multiple of the tile where that is: no short one at the end."""
    chunk = cdiv(tokens, cdiv(tokens, largest))
    if largest % _TOKEN_STEP == 0 and chunk < tokens:
        chunk = cdiv(chunk, _TOKEN_STEP) * _TOKEN_STEP
    return chunk


def _biases(heads: LinearHeads) -> tuple[Tensor | None, Tensor | None]:
    """Biases of the teacher's logits and of the student's; of two heads both or none."""
    if heads.teacher_weight is None:
        return heads.bias, None
    if heads.bias is None and heads.teacher_bias is None:
        return None, None
    zero = heads.weight.new_zeros(len(heads.weight))
    return (
        zero if heads.teacher_bias is None else heads.teacher_bias.contiguous(),
        zero if heads.bias is None else heads.bias.contiguous(),
    )
