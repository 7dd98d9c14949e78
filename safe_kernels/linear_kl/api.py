"""The divergences of `safe_kernels.kl` from hidden states under a frozen head, without the logits in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from safe_kernels._checks import check_floating, check_positive, check_rank, check_shape
from safe_kernels._divergence.inputs import (
    Divergence,
    Reduction,
    autocast_is_on,
    check_like,
    check_options,
    check_tokens,
    choose_measure,
    flatten_tokens,
    reduce_tokens,
    refuse_function_transforms,
)
from safe_kernels._divergence.masks import check_mask
from safe_kernels.linear_kl.heads import Heads
from safe_kernels.linear_kl.ops import linear_kl_tokens
from safe_kernels.linear_kl.vocabulary_parallel import name_group

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def linear_kl_divergence(
    student_hidden: Tensor,
    teacher_hidden: Tensor,
    head_weight: Tensor,
    *,
    head_bias: Tensor | None = None,
    teacher_head_weight: Tensor | None = None,
    teacher_head_bias: Tensor | None = None,
    logit_softcap: float | None = None,
    mask: Tensor | None = None,
    temperature: float = 1.0,
    divergence: Divergence = "forward",
    jsd_beta: float = 0.5,
    reduction: Reduction = "mean",
    chunk_tokens: int | None = None,
    group: ProcessGroup | None = None,
) -> Tensor:
    """Divergence between student and teacher, from their hidden states under a frozen head, without [N, V] in memory.

    Student and teacher share the head W, so their logits differ by (h_s - h_t) W^T. That product is formed instead of
    the student's logits: it costs the same, the bias cancels, and nothing is lost to rounding when the two are close.
    A chunk of tokens at a time goes through the head, and its gradient is formed while its logits exist. The head is
    frozen: no gradient for it is ever formed, and there is a first derivative only.

    Products are taken in the dtype of the head, also under autocast. Where the dtypes differ, which is allowed under
    autocast only, the heads are converted to its dtype, as `torch.nn.functional.linear` would; the difference of the
    hidden states is taken before it is rounded to that.

    Args:
        student_hidden: [N, H] or [B, T, H], float32, bfloat16, float16 or float64. Receives the gradient.
        teacher_hidden: same shape, dtype and device. Detached.
        head_weight: [V, H], same dtype and device. Detached.
        head_bias: [V] or None; -inf excludes a class. Detached.
        teacher_head_weight: [V, H_t] if the teacher has a head of its own (teacher_hidden ends in H_t then); the
            difference is then taken between two float32 logits and loses what rounding takes.
        teacher_head_bias: [V] or None, the bias of `teacher_head_weight`.
        logit_softcap: c > 0 makes logits `c tanh(logits / c)`, as some models do. None leaves them.
        mask: [N] or [B, T] boolean, true for the tokens that count (`answer_mask` makes one of labels); may lie on the
            CPU. Masked tokens have exactly no effect.
        temperature: T > 0, divides both logits (after the cap). The divergence is multiplied by T^2.
        divergence: forward, reverse or jsd.
        jsd_beta: beta of jsd, the teacher's weight in the mixture: from 0 (forward) to 1 (reverse).
        reduction: none (of the mask's shape, zero where masked), sum, or mean over the tokens that count (zero if there
            are none).
        chunk_tokens: tokens that pass the head at a time; None chooses by vocabulary and device. Memory grows with it,
            the result does not depend on it beyond rounding.
        group: processes that share out the classes, each with its own rows of the heads (and entries of the biases), in
            slices of any size, and all with the same states, mask and options. Every one gets the whole divergence and
            the whole gradient. None: the heads are whole.

    Returns:
        Divergence in nats, float32 (float64 for float64 hidden states).

    Raises:
        TypeError: a dtype is not supported, or dtypes differ.
        ValueError: a shape, device or option does not fit, or (CPU only, see `kl_divergence`) the teacher is not
            finite, or one bias alone excludes a class.
        RuntimeError: as for `kl_divergence`.
    """
    check_options(temperature, divergence, jsd_beta, reduction)
    refuse_function_transforms("linear_kl_divergence", student_hidden)
    if logit_softcap is not None:
        check_positive("logit_softcap", logit_softcap)
    if chunk_tokens is not None:
        check_positive("chunk_tokens", chunk_tokens)
    heads = Heads(head_weight, head_bias, teacher_head_weight, teacher_head_bias).detached()
    heads = cast_heads_by_autocast(student_hidden, teacher_hidden, heads)
    check_states(student_hidden, teacher_hidden, heads)
    check_mask(mask, student_hidden.shape[:-1], student_hidden.device)
    tokens, _ = linear_kl_tokens(
        flatten_tokens(student_hidden),
        flatten_tokens(teacher_hidden.detach()),
        *heads,
        None if mask is None else mask.flatten(),
        None if logit_softcap is None else float(logit_softcap),
        float(temperature),
        *choose_measure(divergence, jsd_beta),
        chunk_tokens,
        None if group is None else name_group(group),
        torch.is_grad_enabled() and student_hidden.requires_grad,
    )
    tokens = tokens.view(student_hidden.shape[:-1])
    return reduce_tokens(tokens, mask, reduction)


def cast_heads_by_autocast(student: Tensor, teacher: Tensor, heads: Heads) -> Heads:
    """Under autocast, heads in its dtype if the dtypes differ, as `torch.nn.functional.linear` takes them there.

    Dtypes that agree stay: autocast lowers no precision here.
    """
    given = (student, teacher, *heads.named().values())
    if not autocast_is_on(student) or len({tensor.dtype for tensor in given}) == 1:
        return heads
    for name, tensor in (("student_hidden", student), ("teacher_hidden", teacher), *heads.named().items()):
        check_floating(name, tensor, (torch.float32, torch.bfloat16, torch.float16))
    return heads.to(torch.get_autocast_dtype(student.device.type))


def check_states(student: Tensor, teacher: Tensor, heads: Heads) -> None:
    """Raise unless hidden states and heads fit each other."""
    check_tokens("student_hidden", student, "H")
    check_floating("student_hidden", student)
    if heads.teacher_weight is None and heads.teacher_bias is not None:
        raise ValueError("teacher_head_bias: expected None without teacher_head_weight, got a tensor")
    hidden = student.shape[-1]
    check_rank("head_weight", heads.weight, "V, H")
    vocabulary = heads.weight.shape[0]
    shapes = {"head_weight": (vocabulary, hidden), "head_bias": (vocabulary,), "teacher_head_bias": (vocabulary,)}
    teacher_size = hidden
    if heads.teacher_weight is not None:
        check_rank("teacher_head_weight", heads.teacher_weight, "V, H_t")
        teacher_size = heads.teacher_weight.shape[1]
        shapes["teacher_head_weight"] = (vocabulary, teacher_size)
    shapes["teacher_hidden"] = (*student.shape[:-1], teacher_size)
    for name, tensor in {**heads.named(), "teacher_hidden": teacher}.items():
        check_like(name, tensor, "student_hidden", student)
        check_shape(name, tensor, shapes[name])
