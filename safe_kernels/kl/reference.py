r"""The definition of the divergences, in plain PyTorch: differentiable, readable, meant for float64.

With \(p\) the teacher's and \(q\) the student's distribution over V classes, and \(m = \beta p + (1 - \beta) q\):

- forward: \(KL(p\|q) = \sum_v p_v (\log p_v - \log q_v)\)
- reverse: \(KL(q\|p) = \sum_v q_v (\log q_v - \log p_v)\)
- jsd: \(\beta KL(p\|m) + (1 - \beta) KL(q\|m)\), Jensen-Shannon (Agarwal et al. 2024, arXiv:2306.13649, equation 1), in
  nats; for \(\beta = 1/2\) at most log 2
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def token_divergence(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, divergence: str, beta: float = 0.5
) -> Tensor:
    """Divergence of every token, [N], for logits [N, V], times the square of the temperature."""
    log_q = torch.log_softmax(student_logits / temperature, dim=-1)
    log_p = torch.log_softmax(teacher_logits.detach() / temperature, dim=-1)
    if divergence == "forward":
        tokens = _expected_log_ratio(log_p, log_q)
    elif divergence == "reverse":
        tokens = _expected_log_ratio(log_q, log_p)
    else:
        log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log(1.0 - beta))
        tokens = beta * _expected_log_ratio(log_p, log_m) + (1.0 - beta) * _expected_log_ratio(log_q, log_m)
    return temperature**2 * tokens


def reduce_tokens(tokens: Tensor, mask: Tensor | None, reduction: str) -> Tensor:
    """Reduce [N] token values over the masked-in tokens; a masked token counts as exactly zero."""
    if mask is not None:
        mask = mask.to(tokens.device)
        tokens = torch.where(mask, tokens, torch.zeros_like(tokens))
    if reduction == "none":
        return tokens
    total = tokens.sum()
    if reduction == "sum":
        return total
    if mask is None:
        return total / max(tokens.shape[0], 1)
    return total / mask.sum().clamp_min(1)


def _expected_log_ratio(log_a: Tensor, log_b: Tensor) -> Tensor:
    """KL(a||b) from log-probabilities; classes to which both give exactly zero do not count."""
    absent = torch.isneginf(log_a) & torch.isneginf(log_b)
    ratio = torch.where(absent, 0.0, log_a - log_b)
    return (log_a.exp() * ratio).sum(dim=-1)
