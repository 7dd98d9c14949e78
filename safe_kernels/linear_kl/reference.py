"""The definition of the divergences under a head, in plain PyTorch: differentiable, meant for float64."""

from __future__ import annotations

import torch
from torch import Tensor

from safe_kernels.kl.reference import token_divergence


def linear_token_divergence(
    student_hidden: Tensor,
    teacher_hidden: Tensor,
    head_weight: Tensor,
    *,
    head_bias: Tensor | None = None,
    teacher_head_weight: Tensor | None = None,
    teacher_head_bias: Tensor | None = None,
    logit_softcap: float | None = None,
    temperature: float = 1.0,
    divergence: str = "forward",
    beta: float = 0.5,
) -> Tensor:
    """Divergence of every token, [N], for hidden states [N, H] under a head [V, H]."""
    student_logits = _head(student_hidden, head_weight, head_bias, logit_softcap)
    if teacher_head_weight is None:
        teacher_head_weight, teacher_head_bias = head_weight, head_bias
    teacher_logits = _head(teacher_hidden, teacher_head_weight, teacher_head_bias, logit_softcap)
    return token_divergence(student_logits, teacher_logits, temperature, divergence, beta)


def _head(hidden: Tensor, weight: Tensor, bias: Tensor | None, softcap: float | None) -> Tensor:
    logits = torch.nn.functional.linear(hidden, weight.detach(), None if bias is None else bias.detach())
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)
