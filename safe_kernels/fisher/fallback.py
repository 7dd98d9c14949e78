"""The Fisher operations in PyTorch operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_MULTI: Any = torch
"""PyTorch's multi-tensor operations, public in use and private in name: a call for all tensors."""

_TILE_ELEMENTS = 2**19
"""Elements of one sample's gradient formed at a time: 2 MiB of float32 stay in the cache until they are squared.

Smaller tiles are no faster with one thread, and slower with several, which are woken for each of them.
"""

_MINIMUM_TILE_ROWS = 32


def fisher_diagonal_(out: Tensor, inputs: Tensor, grad_outputs: Tensor) -> None:
    """Add the squared per-sample weight gradients to `out`, one tile of one sample's gradient at a time."""
    inputs, grad_outputs = inputs.to(out.dtype), grad_outputs.to(out.dtype)
    if inputs.shape[1] == 1:
        # One token a sample: the square of a product is the product of squares, and the samples become one product.
        out.addmm_(grad_outputs[:, 0].square().t(), inputs[:, 0].square())
        return
    rows = max(_MINIMUM_TILE_ROWS, _TILE_ELEMENTS // max(1, out.shape[1]))
    tile = out.new_empty((min(rows, out.shape[0]), out.shape[1]))
    for start in range(0, out.shape[0], rows):
        target = out[start : start + rows]
        product = tile[: target.shape[0]]
        for activation, gradient in zip(inputs, grad_outputs, strict=True):
            torch.mm(gradient[:, start : start + rows].t(), activation, out=product)
            target.addcmul_(product, product)


def squared_gradient_ema_(fishers: Sequence[Tensor], grads: Sequence[Tensor], decay: float) -> None:
    """Move every Fisher estimate towards its squared gradient."""
    if fishers and {tensor.dtype for tensor in (*fishers, *grads)} == {fishers[0].dtype}:
        _MULTI._foreach_mul_(fishers, decay)
        _MULTI._foreach_addcmul_(fishers, grads, grads, 1.0 - decay)
        return
    for fisher, grad in zip(fishers, grads, strict=True):
        wide = grad.to(fisher.dtype)
        fisher.mul_(decay).addcmul_(wide, wide, value=1.0 - decay)


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
