r"""Divergence of a student's next-token distribution from a teacher's, from their logits.

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

import torch
from torch import Tensor

from safe_kernels._checks import check_floating, check_shape
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
from safe_kernels.kl.ops import kl_tokens


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
    student_logits, teacher_logits = promote_by_autocast(student_logits, teacher_logits)
    check_logits(student_logits, teacher_logits)
    check_mask(mask, student_logits.shape[:-1], student_logits.device)
    want_gradient = torch.is_grad_enabled() and student_logits.requires_grad
    tokens, _ = kl_tokens(
        flatten_tokens(student_logits),
        flatten_tokens(teacher_logits.detach()),
        None if mask is None else mask.flatten(),
        float(temperature),
        *choose_measure(divergence, jsd_beta),
        want_gradient,
    )
    tokens = tokens.view(student_logits.shape[:-1])
    return reduce_tokens(tokens, mask, reduction)


def promote_by_autocast(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Under autocast, logits of two dtypes in the wider one, as autocast treats the inputs of a divergence."""
    if student.dtype == teacher.dtype or not autocast_is_on(student):
        return student, teacher
    dtype = torch.promote_types(student.dtype, teacher.dtype)
    return student.to(dtype), teacher.to(dtype)


def check_logits(student: Tensor, teacher: Tensor) -> None:
    """Raise unless the logits fit each other."""
    check_tokens("student_logits", student, "V")
    check_floating("student_logits", student)
    check_like("teacher_logits", teacher, "student_logits", student)
    check_shape("teacher_logits", teacher, student.shape)
