"""The squared-gradient average in PyTorch operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_MULTI: Any = torch
"""PyTorch's multi-tensor operations, public in use and private in name: a call for all tensors."""


def squared_gradient_ema_(fishers: Sequence[Tensor], grads: Sequence[Tensor], decay: float) -> None:
    """Move every Fisher estimate towards its squared gradient."""
    if fishers and {tensor.dtype for tensor in (*fishers, *grads)} == {fishers[0].dtype}:
        _MULTI._foreach_mul_(fishers, decay)
        _MULTI._foreach_addcmul_(fishers, grads, grads, 1.0 - decay)
        return
    for fisher, grad in zip(fishers, grads, strict=True):
        wide = grad.to(fisher.dtype)
        fisher.mul_(decay).addcmul_(wide, wide, value=1.0 - decay)
