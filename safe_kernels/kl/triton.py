"""Launches of the Triton kernels of the divergences: one program a row of logits."""

from __future__ import annotations

import torch
from torch import Tensor

from safe_kernels._backend import interpreting
from safe_kernels._triton import launch
from safe_kernels.kl._kernels import difference_kernel, logits_backward_kernel, logits_forward_kernel
from safe_kernels.kl.linear_fallback import LinearHeads

DIVERGENCE_CODES = {"forward": 0, "reverse": 1, "jsd": 2}
"""As the kernels know the divergences."""

WARPS = 8
BLOCK = 4096
"""Classes a program holds at a time: 16 a thread."""

_INTERPRETER_BLOCK = 64
_PAIR_BYTES = 1_250_000_000
"""Default size of one chunk's logits and differences together: 2048 tokens at V = 152064 in half precision."""

_MINIMUM_CHUNK = 128
_MAXIMUM_CHUNK = 8192


def logits_divergence(
    student: Tensor, teacher: Tensor, mask: Tensor | None, temperature: float, divergence: str
) -> tuple[Tensor, Tensor]:
    """Divergence [N] times the squared temperature and statistics [N, 3]; zero where masked."""
    rows, classes = student.shape
    values = student.new_empty(rows, dtype=torch.float32)
    found = student.new_empty((rows, 3), dtype=torch.float32)
    if student.numel() == 0:
        return values.zero_(), found.zero_()
    launch(
        logits_forward_kernel,
        rows,
        student.contiguous(),
        teacher.contiguous(),
        _mask_argument(mask, values),
        values,
        found,
        classes,
        1.0 / temperature,
        DIVERGENCE=DIVERGENCE_CODES[divergence],
        MASKED=mask is not None,
        BLOCK=_block(),
        device=values.device,
        num_warps=WARPS,
    )
    return values, found


def logits_gradient(
    upstream: Tensor,
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    found: Tensor,
    temperature: float,
    divergence: str,
) -> Tensor:
    """Gradient [N, V] with respect to the student's logits; zero where masked."""
    rows, classes = student.shape
    gradient = torch.empty_like(student, memory_format=torch.contiguous_format)
    if student.numel() == 0:
        return gradient
    launch(
        logits_backward_kernel,
        rows,
        upstream.contiguous(),
        student.contiguous(),
        teacher.contiguous(),
        _mask_argument(mask, found),
        found,
        gradient,
        classes,
        1.0 / temperature,
        DIVERGENCE=DIVERGENCE_CODES[divergence],
        MASKED=mask is not None,
        BLOCK=_block(),
        device=gradient.device,
        num_warps=WARPS,
    )
    return gradient


def linear_divergence(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    heads: LinearHeads,
    divergence: str,
    chunk_tokens: int | None,
    want_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Divergence [N] times the squared temperature and its gradient [N, H] ([0, H] unless wanted), float32."""
    tokens, hidden = student.shape
    vocabulary = heads.weight.shape[0]
    values = student.new_empty(tokens, dtype=torch.float32)
    gradient = student.new_empty((tokens if want_gradient else 0, hidden), dtype=torch.float32)
    if tokens == 0 or vocabulary == 0:
        return values.zero_(), gradient.zero_()
    # A shared head's logits keep the model's dtype: the difference form loses nothing by it. Two heads' must not.
    dtype = heads.weight.dtype if heads.teacher_weight is None else torch.float32
    chunk = chunk_tokens or default_chunk(vocabulary, dtype)
    buffers = student.new_empty((2, min(chunk, tokens), vocabulary), dtype=dtype)
    scales = student.new_empty(min(chunk, tokens), dtype=torch.float32)
    for start in range(0, tokens, chunk):
        part = slice(start, min(start + chunk, tokens))
        size = part.stop - part.start
        logits, difference = buffers[0, :size], buffers[1, :size]
        _fill_logits(logits, difference, student[part], teacher[part], heads)
        launch(
            difference_kernel,
            size,
            logits,
            difference,
            _mask_argument(None if mask is None else mask[part], values),
            values[part],
            scales,
            vocabulary,
            1.0 / heads.temperature,
            heads.softcap or 1.0,
            DIVERGENCE=DIVERGENCE_CODES[divergence],
            MASKED=mask is not None,
            SOFTCAP=heads.softcap is not None,
            WANT_GRADIENT=want_gradient,
            BLOCK=_block(),
            device=values.device,
            num_warps=WARPS,
        )
        if want_gradient:
            product = difference.to(heads.weight.dtype) @ heads.weight
            torch.mul(product, scales[:size].unsqueeze(-1), out=gradient[part])
    return values, gradient


def default_chunk(vocabulary: int, dtype: torch.dtype) -> int:
    """Tokens a chunk by default: logits and differences of 1.25 GB, between 128 and 8192 tokens."""
    return min(_MAXIMUM_CHUNK, max(_MINIMUM_CHUNK, _PAIR_BYTES // (2 * vocabulary * dtype.itemsize)))


def _fill_logits(logits: Tensor, difference: Tensor, student: Tensor, teacher: Tensor, heads: LinearHeads) -> None:
    if heads.teacher_weight is None:
        dtype = heads.weight.dtype
        _apply_head(teacher.to(dtype), heads.weight, heads.bias, logits)
        _apply_head((student.float() - teacher.float()).to(dtype), heads.weight, None, difference)
    else:
        _apply_head(teacher.to(heads.weight.dtype), heads.teacher_weight, heads.teacher_bias, logits)
        _apply_head(student.to(heads.weight.dtype), heads.weight, heads.bias, difference)
        both_exclude = torch.isneginf(difference) & torch.isneginf(logits)
        difference.sub_(logits).masked_fill_(both_exclude, 0.0)


def _apply_head(hidden: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    if out.dtype != weight.dtype:
        out.copy_(_float32_product(hidden, weight))
        if bias is not None:
            out.add_(bias)
    elif bias is None:
        torch.mm(hidden, weight.t(), out=out)
    else:
        torch.addmm(bias, hidden, weight.t(), out=out)


def _float32_product(hidden: Tensor, weight: Tensor) -> Tensor:
    """Float32 logits of half-precision operands; on the GPU without a float32 copy of the head."""
    if hidden.device.type == "cpu":
        return hidden.float() @ weight.float().t()
    return torch.ops.aten.mm.dtype(hidden, weight.t(), torch.float32)


def _mask_argument(mask: Tensor | None, placeholder: Tensor) -> Tensor:
    """The mask as bytes; a kernel compiled without a mask gets a pointer that it does not read."""
    return placeholder if mask is None else mask.contiguous().view(torch.uint8)


def _block() -> int:
    """Classes a program holds at a time; few in the interpreter, so that small tests have several blocks too."""
    return _INTERPRETER_BLOCK if interpreting() else BLOCK
