"""The definition of the EWC penalty, in plain PyTorch: differentiable, meant for float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def ewc_penalty(
    params: Sequence[Tensor], anchors: Sequence[Tensor], fishers: Sequence[Tensor], weight: float
) -> Tensor:
    """`weight/2 * sum fisher (param - anchor)^2` over all tensors; differentiable."""
    terms = [
        (fisher * (param - anchor).square()).sum()
        for param, anchor, fisher in zip(params, anchors, fishers, strict=True)
    ]
    return 0.5 * weight * torch.stack(terms).sum()
