"""The divergences as PyTorch custom operators: opaque to compilers, with shapes and gradients registered."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from safe_kernels._backend import choose_backend
from safe_kernels.kl.linear_fallback import LinearHeads, linear_divergence
from safe_kernels.kl.logits_fallback import logits_divergence


def accumulation_dtype(tensor: Tensor) -> torch.dtype:
    """Dtype in which an operation on the tensor sums and returns: float32, or float64 for float64."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


@torch.library.custom_op("safe_kernels::kl_tokens", mutates_args=())
def kl_tokens(
    student_logits: Tensor,
    teacher_logits: Tensor,
    mask: Tensor | None,
    temperature: float,
    divergence: str,
    want_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Divergence [N] of every token, zero where masked, and what its gradient is made from.

    That is, with Triton, [N, 3] statistics, from which and the logits a second kernel makes it. In PyTorch operations,
    where a second pass would cost as much as the first, it is the gradient itself, or nothing without `want_gradient`.
    """
    if choose_backend(student_logits) == "triton":
        from safe_kernels.kl import triton

        mask = _on_device(mask, student_logits)
        values, kept = triton.logits_divergence(student_logits, teacher_logits, mask, temperature, divergence)
    else:
        student, teacher = _kept(student_logits, mask), _kept(teacher_logits, mask)
        values, kept = logits_divergence(student, teacher, temperature, divergence, want_gradient)
        values = _scattered(values.mul_(temperature**2), mask)
        kept = _scattered(kept, mask) if want_gradient else kept
    _raise_if_teacher_not_finite("teacher_logits", teacher_logits, values)
    return values, kept


@kl_tokens.register_fake
def _(
    student_logits: Tensor,
    teacher_logits: Tensor,
    mask: Tensor | None,
    temperature: float,
    divergence: str,
    want_gradient: bool,
) -> tuple[Tensor, Tensor]:
    (tokens, classes), dtype = student_logits.shape, accumulation_dtype(student_logits)
    triton = choose_backend(student_logits) == "triton"
    kept = (tokens, 3) if triton else (tokens if want_gradient else 0, classes)
    return student_logits.new_empty(tokens, dtype=dtype), student_logits.new_empty(kept, dtype=dtype)


@torch.library.custom_op("safe_kernels::kl_tokens_backward", mutates_args=())
def kl_tokens_backward(
    upstream: Tensor,
    student_logits: Tensor,
    teacher_logits: Tensor,
    mask: Tensor | None,
    kept: Tensor,
    temperature: float,
    divergence: str,
) -> Tensor:
    """Gradient [N, V] with respect to the student's logits, for the upstream gradient [N]; zero where masked."""
    if choose_backend(student_logits) == "triton":
        from safe_kernels.kl import triton

        mask = _on_device(mask, student_logits)
        return triton.logits_gradient(upstream, student_logits, teacher_logits, mask, kept, temperature, divergence)
    return (kept * (upstream * temperature).unsqueeze(-1)).to(student_logits.dtype)


@kl_tokens_backward.register_fake
def _(
    upstream: Tensor,
    student_logits: Tensor,
    teacher_logits: Tensor,
    mask: Tensor | None,
    kept: Tensor,
    temperature: float,
    divergence: str,
) -> Tensor:
    return torch.empty_like(student_logits, memory_format=torch.contiguous_format)


def _save_kl_tokens(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    student_logits, teacher_logits, mask, ctx.temperature, ctx.divergence, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(student_logits, teacher_logits, mask, output[1])


def _differentiate_kl_tokens(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    student_logits, teacher_logits, mask, kept = ctx.saved_tensors
    gradient = torch.ops.safe_kernels.kl_tokens_backward(
        upstream, student_logits, teacher_logits, mask, kept, ctx.temperature, ctx.divergence
    )
    return gradient, None, None, None, None, None


kl_tokens.register_autograd(_differentiate_kl_tokens, setup_context=_save_kl_tokens)


@torch.library.custom_op("safe_kernels::linear_kl_tokens", mutates_args=())
def linear_kl_tokens(
    student_hidden: Tensor,
    teacher_hidden: Tensor,
    head_weight: Tensor,
    head_bias: Tensor | None,
    teacher_head_weight: Tensor | None,
    teacher_head_bias: Tensor | None,
    mask: Tensor | None,
    logit_softcap: float | None,
    temperature: float,
    divergence: str,
    chunk_tokens: int | None,
    want_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Divergence [N] of every token and its gradient [N, H] with respect to the student's hidden state.

    Both are zero where masked. The gradient is formed together with the value, while the logits exist; without
    `want_gradient` it has no rows.
    """
    heads = LinearHeads(head_weight, head_bias, teacher_head_weight, teacher_head_bias, logit_softcap, temperature)
    # How many tokens a mask keeps is known without a synchronization only if the mask is on the CPU. A mask on the GPU
    # is given to the kernel, which skips the masked rows.
    packing = (
        None if mask is None or (mask.device.type != "cpu" and choose_backend(student_hidden) == "triton") else mask
    )
    student, teacher = _kept(student_hidden, packing), _kept(teacher_hidden, packing)
    if choose_backend(student_hidden) == "triton":
        from safe_kernels.kl import triton

        row_mask = mask if packing is None else None
        values, gradient = triton.linear_divergence(
            student, teacher, row_mask, heads, divergence, chunk_tokens, want_gradient
        )
    else:
        values, gradient = linear_divergence(student, teacher, heads, divergence, chunk_tokens, want_gradient)
    values = _scattered(values, packing)
    _raise_if_teacher_not_finite("teacher_hidden", teacher_hidden, values)
    return values, _scattered(gradient, packing) if want_gradient else gradient


@linear_kl_tokens.register_fake
def _(
    student_hidden: Tensor,
    teacher_hidden: Tensor,
    head_weight: Tensor,
    head_bias: Tensor | None,
    teacher_head_weight: Tensor | None,
    teacher_head_bias: Tensor | None,
    mask: Tensor | None,
    logit_softcap: float | None,
    temperature: float,
    divergence: str,
    chunk_tokens: int | None,
    want_gradient: bool,
) -> tuple[Tensor, Tensor]:
    tokens, hidden = student_hidden.shape
    dtype = accumulation_dtype(student_hidden)
    values = student_hidden.new_empty(tokens, dtype=dtype)
    return values, student_hidden.new_empty((tokens if want_gradient else 0, hidden), dtype=dtype)


def _save_linear_kl_tokens(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.hidden_dtype = inputs[0].dtype
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])


def _differentiate_linear_kl_tokens(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    (gradient,) = ctx.saved_tensors
    return (gradient * upstream.unsqueeze(-1)).to(ctx.hidden_dtype), *([None] * 11)


linear_kl_tokens.register_autograd(_differentiate_linear_kl_tokens, setup_context=_save_linear_kl_tokens)


def _on_device(mask: Tensor | None, like: Tensor) -> Tensor | None:
    return None if mask is None else mask.to(like.device, non_blocking=True)


def _kept(tensor: Tensor, mask: Tensor | None) -> Tensor:
    return tensor if mask is None else tensor[mask]


def _scattered(values: Tensor, mask: Tensor | None) -> Tensor:
    """Put packed rows back to where the mask is true; the rows of masked tokens are zero."""
    if mask is None:
        return values
    full = values.new_zeros((mask.shape[0], *values.shape[1:]))
    full[mask] = values
    return full


def _raise_if_teacher_not_finite(name: str, teacher: Tensor, values: Tensor) -> None:
    """Trace a NaN result to the teacher. Only on the CPU: elsewhere looking would synchronize with the device.

    Raises:
        ValueError: a result is NaN because the teacher holds a NaN or +inf there.
    """
    if values.device.type != "cpu" or not values.isnan().any():
        return
    row = int(values.isnan().nonzero()[0])
    if (teacher[row].isnan() | teacher[row].isposinf()).any():
        raise ValueError(f"{name}: expected finite values, got NaN or +inf in row {row}")
