"""Launch of the Triton kernel of the Fisher diagonal."""

from __future__ import annotations

import torch
from torch import Tensor

from safe_kernels._backend import interpreting
from safe_kernels._triton import cdiv, dot_precision, launch, widen_for_dot
from safe_kernels.fisher._diagonal_kernels import fisher_diagonal_kernel

HALF_TILE = 128
"""Rows and columns of the Fisher diagonal that a program owns, for half-precision operands: two float32 accumulators,
128 registers a thread."""

FLOAT32_TILE = 64
"""The same for float32 operands, whose three-term products need registers too: 128 spills."""

FISHER_WARPS = 8
"""With 4 warps the two accumulators spill."""

TOKENS = 32
GROUP = 8
_INTERPRETER_TILE = 16


def fisher_diagonal_(out: Tensor, inputs: Tensor, grad_outputs: Tensor) -> None:
    """Add the squared per-sample weight gradients to `out`."""
    samples, tokens, din = inputs.shape
    dout = grad_outputs.shape[2]
    if inputs.numel() == 0 or dout == 0:
        return
    one_token = tokens == 1
    if one_token:
        samples, tokens = 1, samples
    target = out.contiguous()
    half = inputs.dtype != torch.float32 and not one_token
    tile = _INTERPRETER_TILE if interpreting() else HALF_TILE if half else FLOAT32_TILE
    launch(
        fisher_diagonal_kernel,
        cdiv(dout, tile) * cdiv(din, tile),
        target,
        inputs.contiguous(),
        grad_outputs.contiguous(),
        samples,
        tokens,
        din,
        dout,
        ONE_TOKEN=one_token,
        WIDEN=widen_for_dot(),
        PRECISION="ieee" if half else dot_precision(),
        TILE=tile,
        TOKENS=_INTERPRETER_TILE if interpreting() else TOKENS,
        GROUP=GROUP,
        device=out.device,
        num_warps=FISHER_WARPS,
    )
    if target is not out:
        out.copy_(target)
