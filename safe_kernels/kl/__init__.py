r"""Divergence of a student's next-token distribution from a teacher's.

With p the teacher's and q the student's distribution of a token, over V classes, softened by a temperature T:

    forward   KL(p||q) = sum_v p_v (log p_v - log q_v)      the student must cover what the teacher says
    reverse   KL(q||p)                                      the student must not say what the teacher would not
    jsd       KL(p||m)/2 + KL(q||m)/2,  m = (p + q)/2       symmetric, at most log 2

Each is multiplied by T^2, so that the gradient keeps its size as T changes (Hinton, Vinyals, Dean 2015,
"Distilling the Knowledge in a Neural Network", section 2.1).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from safe_kernels._checks import check_mask, check_positive
from safe_kernels.kl._inputs import (
    Heads,
    check_logits,
    check_options,
    check_states,
    heads_under_autocast,
    promoted_by_autocast,
    refuse_function_transforms,
)
from safe_kernels.kl._ops import kl_tokens, linear_kl_tokens

Divergence = Literal["forward", "reverse", "jsd"]
Reduction = Literal["mean", "sum", "none"]


def kl_divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    mask: Tensor | None = None,
    temperature: float = 1.0,
    divergence: Divergence = "forward",
    reduction: Reduction = "mean",
) -> Tensor:
    """Divergence between student and teacher, from their logits.

    A class may be excluded by -inf in both; everything else must be finite. A teacher that holds NaN or +inf, or a
    class that one of the two excludes alone, is an error on the CPU; on a GPU, where looking would make the host wait,
    the result is NaN. There is a first derivative only.

    Args:
        student_logits: [N, V], float32, bfloat16, float16 or float64. Receives the gradient.
        teacher_logits: [N, V], same dtype (under autocast the wider of the two is taken) and device. Detached.
        mask: [N] boolean, true for the tokens that count; may lie on the CPU. Masked tokens have exactly no effect.
        temperature: T > 0, divides both logits. The divergence is multiplied by T^2.
        divergence: forward, reverse or jsd.
        reduction: none ([N], zero where masked), sum, or mean over the tokens that count (zero if there are none).

    Returns:
        Divergence in nats, float32 (float64 for float64 logits).

    Raises:
        TypeError: a dtype is not supported, or the two differ.
        ValueError: a shape, device or option does not fit, or (CPU only) the logits are not finite as above.
        RuntimeError: a second derivative or a transform of `torch.func` is asked for, or a mask on the CPU is given
            while a CUDA graph is captured.
    """
    check_options(temperature, divergence, reduction)
    refuse_function_transforms("kl_divergence", student_logits)
    student_logits, teacher_logits = promoted_by_autocast(student_logits, teacher_logits)
    check_logits(student_logits, teacher_logits)
    check_mask(mask, student_logits.shape[0], student_logits.device)
    want_gradient = torch.is_grad_enabled() and student_logits.requires_grad
    tokens, _ = kl_tokens(
        student_logits, teacher_logits.detach(), mask, float(temperature), divergence, 0.5, want_gradient
    )
    return _reduced(tokens, mask, reduction)


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
    reduction: Reduction = "mean",
    chunk_tokens: int | None = None,
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
        student_hidden: [N, H], float32, bfloat16, float16 or float64. Receives the gradient.
        teacher_hidden: [N, H], same dtype and device. Detached.
        head_weight: [V, H], same dtype and device. Detached.
        head_bias: [V] or None; -inf excludes a class. Detached.
        teacher_head_weight: [V, H_t] if the teacher has a head of its own (teacher_hidden is then [N, H_t]); the
            difference is then taken between two float32 logits and loses what rounding takes.
        teacher_head_bias: [V] or None, the bias of `teacher_head_weight`.
        logit_softcap: c > 0 makes logits `c tanh(logits / c)`, as some models do. None leaves them.
        mask: [N] boolean, true for the tokens that count; may lie on the CPU. Masked tokens have exactly no effect.
        temperature: T > 0, divides both logits (after the cap). The divergence is multiplied by T^2.
        divergence: forward, reverse or jsd.
        reduction: none ([N], zero where masked), sum, or mean over the tokens that count (zero if there are none).
        chunk_tokens: tokens that pass the head at a time; None chooses by vocabulary and device. Memory grows with it,
            the result does not depend on it beyond rounding.

    Returns:
        Divergence in nats, float32 (float64 for float64 hidden states).

    Raises:
        TypeError: a dtype is not supported, or dtypes differ.
        ValueError: a shape, device or option does not fit, or (CPU only, see `kl_divergence`) the teacher is not
            finite, or one bias alone excludes a class.
        RuntimeError: as for `kl_divergence`.
    """
    check_options(temperature, divergence, reduction)
    refuse_function_transforms("linear_kl_divergence", student_hidden)
    if logit_softcap is not None:
        check_positive("logit_softcap", logit_softcap)
    if chunk_tokens is not None:
        check_positive("chunk_tokens", chunk_tokens)
    heads = Heads(head_weight, head_bias, teacher_head_weight, teacher_head_bias).detached()
    heads = heads_under_autocast(student_hidden, teacher_hidden, heads)
    check_states(student_hidden, teacher_hidden, heads)
    check_mask(mask, student_hidden.shape[0], student_hidden.device)
    tokens, _ = linear_kl_tokens(
        student_hidden,
        teacher_hidden.detach(),
        *heads,
        mask,
        None if logit_softcap is None else float(logit_softcap),
        float(temperature),
        divergence,
        0.5,
        chunk_tokens,
        torch.is_grad_enabled() and student_hidden.requires_grad,
    )
    return _reduced(tokens, mask, reduction)


def _reduced(tokens: Tensor, mask: Tensor | None, reduction: Reduction) -> Tensor:
    """Reduce token values, which are zero where masked; a mask on the CPU stays there."""
    if reduction == "none":
        return tokens
    total = tokens.sum()
    if reduction == "sum":
        return total
    return total / (max(tokens.numel(), 1) if mask is None else mask.sum().clamp_min(1))
