"""The divergence under a head as a PyTorch custom operator: shapes, gradient and FLOPs are registered."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from safe_kernels._backend import choose_backend
from safe_kernels._divergence.inputs import Measure
from safe_kernels._divergence.masks import find_kept_rows, pack, unpack
from safe_kernels._divergence.ops import raise_if_one_sided, raise_if_teacher_not_finite, refuse_second_derivative
from safe_kernels._dtypes import accumulation_dtype
from safe_kernels._flops import flop_formula
from safe_kernels.linear_kl import torch_impl
from safe_kernels.linear_kl.heads import LinearHeads
from safe_kernels.linear_kl.vocabulary_parallel import find_group


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
    beta: float,
    chunk_tokens: int | None,
    group: str | None,
    want_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Divergence [N] of every token and its gradient [N, H] with respect to the student's hidden state.

    Both are zero where masked. The gradient is formed together with the value, while the logits exist; without
    `want_gradient` it has no rows.
    """
    heads = LinearHeads(head_weight, head_bias, teacher_head_weight, teacher_head_bias, logit_softcap, temperature)
    # How many tokens a mask keeps is known without a synchronization only if the mask is on the CPU. A mask on the GPU
    # is given to the kernel, which skips the masked rows.
    if head_bias is not None and teacher_head_bias is not None and head_bias.device.type == "cpu":
        raise_if_one_sided(head_bias, teacher_head_bias, "head_bias and teacher_head_bias")
    use_triton = choose_backend(student_hidden) == "triton"
    skipped_by_kernel = use_triton and mask is not None and mask.device.type != "cpu"
    rows = None if skipped_by_kernel else find_kept_rows(mask, student_hidden.device)
    student, teacher = pack(student_hidden, rows), pack(teacher_hidden, rows)
    # The products below are to be in the dtypes they are written in; autocast would lower those of float32.
    options = (
        heads, Measure(divergence, beta), chunk_tokens, want_gradient, None if group is None else find_group(group)
    )  # fmt: skip
    with torch.autocast(student_hidden.device.type, enabled=False):
        if use_triton:
            from safe_kernels.linear_kl import triton_impl

            row_mask = mask if skipped_by_kernel else None
            values, gradient = triton_impl.linear_divergence(student, teacher, row_mask, *options)
        else:
            values, gradient = torch_impl.linear_divergence(student, teacher, *options)
    count = len(student_hidden)
    values = unpack(values, rows, count)
    raise_if_teacher_not_finite("teacher_hidden", teacher_hidden, values)
    return values, unpack(gradient, rows, count) if want_gradient else gradient


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
    beta: float,
    chunk_tokens: int | None,
    group: str | None,
    want_gradient: bool,
) -> tuple[Tensor, Tensor]:
    tokens, hidden = student_hidden.shape
    dtype = accumulation_dtype(student_hidden.dtype)
    values = student_hidden.new_empty(tokens, dtype=dtype)
    return values, student_hidden.new_empty((tokens if want_gradient else 0, hidden), dtype=dtype)


@flop_formula(torch.ops.safe_kernels.linear_kl_tokens)
def count_flops(
    student_hidden: torch.Size,
    teacher_hidden: torch.Size,
    head_weight: torch.Size,
    head_bias: torch.Size | None,
    teacher_head_weight: torch.Size | None,
    *options: Any,
    **_: Any,
) -> int:
    """Two operations an entry of a head and token in each product: two for the logits, one for the gradient if wanted.

    Masked tokens count, since the formula sees shapes alone.
    """
    want_gradient = options[-1]
    teacher_head = head_weight if teacher_head_weight is None else teacher_head_weight
    entries = math.prod(head_weight) * (2 if want_gradient else 1) + math.prod(teacher_head)
    return 2 * student_hidden[0] * entries


def _save_linear_kl_tokens(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.hidden_dtype = inputs[0].dtype
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])


def _differentiate_linear_kl_tokens(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    refuse_second_derivative("linear_kl_divergence", "safe_kernels.linear_kl.reference")
    (gradient,) = ctx.saved_tensors
    return (gradient * upstream.unsqueeze(-1)).to(ctx.hidden_dtype), *([None] * 13)


linear_kl_tokens.register_autograd(_differentiate_linear_kl_tokens, setup_context=_save_linear_kl_tokens)
