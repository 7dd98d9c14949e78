"""The divergence of logits as a PyTorch custom operator: opaque to compilers, with shapes and gradients registered."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from safe_kernels._backend import choose_backend
from safe_kernels._divergence.inputs import Measure
from safe_kernels._divergence.masks import find_kept_rows, move_mask, pack, unpack
from safe_kernels._divergence.ops import (
    raise_if_one_excludes_alone,
    raise_if_teacher_not_finite,
    refuse_second_derivative,
)
from safe_kernels._dtypes import accumulation_dtype
from safe_kernels.kl import torch_impl


@torch.library.custom_op("safe_kernels::kl_tokens", mutates_args=())
def kl_tokens(
    student_logits: Tensor,
    teacher_logits: Tensor,
    mask: Tensor | None,
    temperature: float,
    divergence: str,
    beta: float,
    want_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Divergence [N] of every token, zero where masked, and what its gradient is made from.

    That is, with Triton, [N, 4] statistics, from which and the logits a second kernel makes it. In PyTorch operations,
    where a second pass would cost as much as the first, it is the gradient itself, or nothing without `want_gradient`.
    """
    if choose_backend(student_logits) == "triton":
        from safe_kernels.kl import triton_impl

        mask = move_mask(mask, student_logits.device)
        values, kept = triton_impl.logits_divergence(
            student_logits, teacher_logits, mask, temperature, Measure(divergence, beta)
        )
    else:
        rows, count = find_kept_rows(mask, student_logits.device), len(student_logits)
        student, teacher = pack(student_logits, rows), pack(teacher_logits, rows)
        measure = Measure(divergence, beta)
        values, kept = torch_impl.logits_divergence(student, teacher, temperature, measure, want_gradient)
        values = unpack(values.mul_(temperature**2), rows, count)
        kept = unpack(kept, rows, count) if want_gradient else kept
    raise_if_teacher_not_finite("teacher_logits", teacher_logits, values)
    raise_if_one_excludes_alone(student_logits, teacher_logits, values, "student_logits and teacher_logits")
    return values, kept


@kl_tokens.register_fake
def _(
    student_logits: Tensor,
    teacher_logits: Tensor,
    mask: Tensor | None,
    temperature: float,
    divergence: str,
    beta: float,
    want_gradient: bool,
) -> tuple[Tensor, Tensor]:
    (tokens, classes), dtype = student_logits.shape, accumulation_dtype(student_logits.dtype)
    triton = choose_backend(student_logits) == "triton"
    kept = (tokens, 4) if triton else (tokens if want_gradient else 0, classes)
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
    beta: float,
) -> Tensor:
    """Gradient [N, V] with respect to the student's logits, for the upstream gradient [N]; zero where masked."""
    if choose_backend(student_logits) == "triton":
        from safe_kernels.kl import triton_impl

        mask = move_mask(mask, student_logits.device)
        return triton_impl.logits_gradient(
            upstream, student_logits, teacher_logits, mask, kept, temperature, Measure(divergence, beta)
        )
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
    beta: float,
) -> Tensor:
    return torch.empty_like(student_logits, memory_format=torch.contiguous_format)


def _save_kl_tokens(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    student_logits, teacher_logits, mask, ctx.temperature, ctx.divergence, ctx.beta, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(student_logits, teacher_logits, mask, output[1])


def _differentiate_kl_tokens(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    refuse_second_derivative("kl_divergence", "safe_kernels.kl.reference")
    student_logits, teacher_logits, mask, kept = ctx.saved_tensors
    gradient = torch.ops.safe_kernels.kl_tokens_backward(
        upstream, student_logits, teacher_logits, mask, kept, ctx.temperature, ctx.divergence, ctx.beta
    )
    return gradient, *([None] * 6)


kl_tokens.register_autograd(_differentiate_kl_tokens, setup_context=_save_kl_tokens)
