"""The divergences as PyTorch custom operators: opaque to compilers, with shapes and gradients registered."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from safe_kernels._backend import choose_backend
from safe_kernels.kl._packing import mask_on, pack, packed_rows, unpack
from safe_kernels.kl.fallback import Measure
from safe_kernels.kl.linear_fallback import LinearHeads, linear_divergence
from safe_kernels.kl.logits_fallback import logits_divergence
from safe_kernels.kl.vocabulary_parallel import group_named


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
    beta: float,
    want_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Divergence [N] of every token, zero where masked, and what its gradient is made from.

    That is, with Triton, [N, 4] statistics, from which and the logits a second kernel makes it. In PyTorch operations,
    where a second pass would cost as much as the first, it is the gradient itself, or nothing without `want_gradient`.
    """
    if choose_backend(student_logits) == "triton":
        from safe_kernels.kl import triton

        mask = mask_on(mask, student_logits.device)
        values, kept = triton.logits_divergence(
            student_logits, teacher_logits, mask, temperature, Measure(divergence, beta)
        )
    else:
        rows, count = packed_rows(mask, student_logits.device), len(student_logits)
        student, teacher = pack(student_logits, rows), pack(teacher_logits, rows)
        values, kept = logits_divergence(student, teacher, temperature, Measure(divergence, beta), want_gradient)
        values = unpack(values.mul_(temperature**2), rows, count)
        kept = unpack(kept, rows, count) if want_gradient else kept
    _raise_if_teacher_not_finite("teacher_logits", teacher_logits, values)
    _raise_if_one_excludes_alone(student_logits, teacher_logits, values, "student_logits and teacher_logits")
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
    (tokens, classes), dtype = student_logits.shape, accumulation_dtype(student_logits)
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
        from safe_kernels.kl import triton

        mask = mask_on(mask, student_logits.device)
        return triton.logits_gradient(
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
    _refuse_second_derivative("kl_divergence")
    student_logits, teacher_logits, mask, kept = ctx.saved_tensors
    gradient = torch.ops.safe_kernels.kl_tokens_backward(
        upstream, student_logits, teacher_logits, mask, kept, ctx.temperature, ctx.divergence, ctx.beta
    )
    return gradient, *([None] * 6)


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
        _raise_if_one_sided(head_bias, teacher_head_bias, "head_bias and teacher_head_bias")
    use_triton = choose_backend(student_hidden) == "triton"
    skipped_by_kernel = use_triton and mask is not None and mask.device.type != "cpu"
    rows = None if skipped_by_kernel else packed_rows(mask, student_hidden.device)
    student, teacher = pack(student_hidden, rows), pack(teacher_hidden, rows)
    # The products below are to be in the dtypes they are written in; autocast would lower those of float32.
    options = (
        heads, Measure(divergence, beta), chunk_tokens, want_gradient, None if group is None else group_named(group)
    )  # fmt: skip
    with torch.autocast(student_hidden.device.type, enabled=False):
        if use_triton:
            from safe_kernels.kl import triton

            row_mask = mask if skipped_by_kernel else None
            values, gradient = triton.linear_divergence(student, teacher, row_mask, *options)
        else:
            values, gradient = linear_divergence(student, teacher, *options)
    count = len(student_hidden)
    values = unpack(values, rows, count)
    _raise_if_teacher_not_finite("teacher_hidden", teacher_hidden, values)
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
    dtype = accumulation_dtype(student_hidden)
    values = student_hidden.new_empty(tokens, dtype=dtype)
    return values, student_hidden.new_empty((tokens if want_gradient else 0, hidden), dtype=dtype)


def _save_linear_kl_tokens(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.hidden_dtype = inputs[0].dtype
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])


def _differentiate_linear_kl_tokens(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    _refuse_second_derivative("linear_kl_divergence")
    (gradient,) = ctx.saved_tensors
    return (gradient * upstream.unsqueeze(-1)).to(ctx.hidden_dtype), *([None] * 13)


linear_kl_tokens.register_autograd(_differentiate_linear_kl_tokens, setup_context=_save_linear_kl_tokens)


def _refuse_second_derivative(operation: str) -> None:
    """Refuse a backward pass that is itself recorded: the gradient's dependence on the student would be left out.

    Raises:
        RuntimeError: the backward pass runs with `create_graph=True`.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"{operation}: expected a backward pass with create_graph=False, got create_graph=True; it has no second "
            "derivative, for which safe_kernels.kl.reference in float64 can be used"
        )


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


def _raise_if_one_excludes_alone(student: Tensor, teacher: Tensor, values: Tensor, names: str) -> None:
    """Trace a result that is no number to a class that only one of the two excludes; on the CPU, as above.

    Raises:
        ValueError: a class is excluded by -inf on one side only, where the divergence is infinite or not defined.
    """
    if values.device.type != "cpu" or values.isfinite().all():
        return
    for row in (~values.isfinite()).nonzero().flatten().tolist():
        _raise_if_one_sided(student[row], teacher[row], f"{names}: in row {row}")


def _raise_if_one_sided(student: Tensor, teacher: Tensor, place: str) -> None:
    alone = torch.isneginf(student) != torch.isneginf(teacher)
    if alone.any():
        raise ValueError(
            f"{place}: expected -inf in both or in neither, got it in one alone for class {int(alone.nonzero()[0])}; "
            "exclude the class from both"
        )
