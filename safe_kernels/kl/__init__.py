r"""Divergence of a student's next-token distribution from a teacher's.

With p the teacher's and q the student's distribution of a token, over V classes, softened by a temperature T:

    forward   KL(p||q) = sum_v p_v (log p_v - log q_v)      the student must cover what the teacher says
    reverse   KL(q||p)                                      the student must not say what the teacher would not
    jsd       beta KL(p||m) + (1 - beta) KL(q||m),  m = beta p + (1 - beta) q

For beta = 1/2 the last is the Jensen-Shannon divergence, symmetric and at most log 2. With other weights it is the
generalized one of Agarwal et al. 2024, "On-Policy Distillation of Language Models", arXiv:2306.13649. It goes to zero
with beta and with 1 - beta; at beta = 0 and 1 its limit over beta or 1 - beta is taken, which is forward and reverse.

Each is multiplied by T^2, so that the gradient keeps its size as T changes (Hinton, Vinyals, Dean 2015,
"Distilling the Knowledge in a Neural Network", section 2.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from safe_kernels._checks import check_positive
from safe_kernels.kl._inputs import (
    Heads,
    by_tokens,
    check_logits,
    check_mask,
    check_options,
    check_states,
    heads_under_autocast,
    measure_of,
    promoted_by_autocast,
    refuse_function_transforms,
)
from safe_kernels.kl._ops import kl_tokens, linear_kl_tokens
from safe_kernels.kl.vocabulary_parallel import name_of

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Divergence = Literal["forward", "reverse", "jsd"]
Reduction = Literal["mean", "sum", "none"]


def kl_divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    mask: Tensor | None = None,
    temperature: float = 1.0,
    divergence: Divergence = "forward",
    jsd_beta: float = 0.5,
    reduction: Reduction = "mean",
) -> Tensor:
    """Divergence between student and teacher, from their logits.

    A class may be excluded by -inf in both; everything else must be finite. A teacher that holds NaN or +inf, or a
    class that one of the two excludes alone, is an error on the CPU; on a GPU, where looking would make the host wait,
    the result is NaN. There is a first derivative only.

    Args:
        student_logits: [N, V] or [B, T, V], float32, bfloat16, float16 or float64. Receives the gradient.
        teacher_logits: same shape, dtype (under autocast the wider of the two is taken) and device. Detached.
        mask: [N] or [B, T] boolean, true for the tokens that count (`answer_mask` makes one of labels); may lie on the
            CPU. Masked tokens have exactly no effect.
        temperature: T > 0, divides both logits. The divergence is multiplied by T^2.
        divergence: forward, reverse or jsd.
        jsd_beta: beta of jsd, the teacher's weight in the mixture: from 0 (forward) to 1 (reverse).
        reduction: none (of the mask's shape, zero where masked), sum, or mean over the tokens that count (zero if there
            are none).

    Returns:
        Divergence in nats, float32 (float64 for float64 logits).

    Raises:
        TypeError: a dtype is not supported, or the two differ.
        ValueError: a shape, device or option does not fit, or (CPU only) the logits are not finite as above.
        RuntimeError: a second derivative or a transform of `torch.func` is asked for, or a mask on the CPU is given
            while a CUDA graph is captured.
    """
    check_options(temperature, divergence, jsd_beta, reduction)
    refuse_function_transforms("kl_divergence", student_logits)
    student_logits, teacher_logits = promoted_by_autocast(student_logits, teacher_logits)
    check_logits(student_logits, teacher_logits)
    check_mask(mask, student_logits.shape[:-1], student_logits.device)
    want_gradient = torch.is_grad_enabled() and student_logits.requires_grad
    tokens, _ = kl_tokens(
        by_tokens(student_logits),
        by_tokens(teacher_logits.detach()),
        None if mask is None else mask.flatten(),
        float(temperature),
        *measure_of(divergence, jsd_beta),
        want_gradient,
    )
    tokens = tokens.view(student_logits.shape[:-1])
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
    heads = heads_under_autocast(student_hidden, teacher_hidden, heads)
    check_states(student_hidden, teacher_hidden, heads)
    check_mask(mask, student_hidden.shape[:-1], student_hidden.device)
    tokens, _ = linear_kl_tokens(
        by_tokens(student_hidden),
        by_tokens(teacher_hidden.detach()),
        *heads,
        None if mask is None else mask.flatten(),
        None if logit_softcap is None else float(logit_softcap),
        float(temperature),
        *measure_of(divergence, jsd_beta),
        chunk_tokens,
        None if group is None else name_of(group),
        torch.is_grad_enabled() and student_hidden.requires_grad,
    )
    tokens = tokens.view(student_hidden.shape[:-1])
    return _reduced(tokens, mask, reduction)


def _reduced(tokens: Tensor, mask: Tensor | None, reduction: Reduction) -> Tensor:
    """Reduce token values, which are zero where masked; a mask on the CPU stays there."""
    if reduction == "none":
        return tokens
    total = tokens.sum()
    if reduction == "sum":
        return total
    return total / (max(tokens.numel(), 1) if mask is None else mask.sum().clamp_min(1))


def answer_mask(labels: Tensor, *, ignore_index: int = -100, shift: bool = True) -> Tensor:
    """The tokens whose prediction counts, as the `mask` of the divergences, from the labels of a language model.

    Args:
        labels: [..., T] integers; `ignore_index` where there is nothing to predict (prompt, padding).
        ignore_index: the label that does not count.
        shift: whether labels stand at their own tokens, as models take them: position t then counts if the label at
            t + 1 does, and the last never. False if they are shifted already.

    Returns:
        Boolean, the labels' shape and device.

    Raises:
        TypeError: the labels are not integers.
        ValueError: the labels have no dimension.
    """
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels: expected integers, got {labels.dtype}")
    if labels.dim() == 0:
        raise ValueError("labels: expected shape [..., T], got []")
    counts = labels != ignore_index
    return torch.nn.functional.pad(counts[..., 1:], (0, 1)) if shift and labels.shape[-1] else counts
