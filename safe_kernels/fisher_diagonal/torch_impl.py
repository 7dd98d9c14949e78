"""The Fisher diagonal in PyTorch operations."""

from __future__ import annotations

import torch
from torch import Tensor

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
