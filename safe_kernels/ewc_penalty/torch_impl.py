"""The EWC penalty in PyTorch operations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def ewc_penalty_(
    grads: Sequence[Tensor],
    params: Sequence[Tensor],
    anchors: Sequence[Tensor],
    fishers: Sequence[Tensor],
    weight: float,
) -> Tensor:
    """Value of the penalty; its gradient is added to `grads`."""
    value = fishers[0].new_zeros(())
    for grad, param, anchor, fisher in zip(grads, params, anchors, fishers, strict=True):
        offset = param.to(fisher.dtype) - anchor.to(fisher.dtype)
        pull = offset * fisher
        value += torch.dot(pull.flatten(), offset.flatten())
        if grad.dtype == fisher.dtype:
            grad.add_(pull, alpha=weight)
        else:
            grad.copy_(grad.to(fisher.dtype).add_(pull, alpha=weight))
    return value.mul_(0.5 * weight)
