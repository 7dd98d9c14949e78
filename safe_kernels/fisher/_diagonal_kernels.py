"""Triton kernels of the Fisher diagonal."""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false, reportAttributeAccessIssue=false
# Kernels are a language of their own in Python's syntax: a call returns what its body computes, which Python's types
# cannot say.

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def fisher_diagonal_kernel(
    out_ptr: tl.tensor,
    inputs_ptr: tl.tensor,
    grads_ptr: tl.tensor,
    samples: tl.tensor,
    tokens: tl.tensor,
    din: tl.tensor,
    dout: tl.tensor,
    ONE_TOKEN: tl.constexpr,
    WIDEN: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE: tl.constexpr,
    TOKENS: tl.constexpr,
    GROUP: tl.constexpr,
) -> None:
    """Add a tile of `sum_n (sum_t g a^T)^2`: samples and tokens in a fixed order, no atomics.

    ONE_TOKEN: there is one token a sample. The square of a product is the product of squares, so the samples take the
    tokens' place (`samples` is 1 and `tokens` their number) and the operands are squared instead of the sum.
    """
    row_tiles = tl.cdiv(dout, TILE)
    column_tiles = tl.cdiv(din, TILE)
    # Programs in groups of GROUP rows of tiles, so that those that run together share operands in the L2 cache.
    program = tl.program_id(0)
    group = program // (GROUP * column_tiles)
    group_rows = tl.minimum(row_tiles - group * GROUP, GROUP)
    within = program % (GROUP * column_tiles)
    rows = (group * GROUP + within % group_rows) * TILE + tl.arange(0, TILE)
    columns = (within // group_rows) * TILE + tl.arange(0, TILE)
    steps = tl.arange(0, TOKENS)
    total = tl.zeros([TILE, TILE], tl.float32)
    for sample in range(0, samples):
        first = tl.cast(sample, tl.int64) * tokens
        product = tl.zeros([TILE, TILE], tl.float32)
        for start in range(0, tokens, TOKENS):
            token = (first + start + steps)[:, None]
            inside = (start + steps < tokens)[:, None]
            a = tl.load(inputs_ptr + token * din + columns[None, :], mask=inside & (columns < din)[None, :], other=0.0)
            g = tl.load(grads_ptr + token * dout + rows[None, :], mask=inside & (rows < dout)[None, :], other=0.0)
            if ONE_TOKEN:
                a, g = a.to(tl.float32), g.to(tl.float32)
                a, g = a * a, g * g
            if WIDEN:
                a, g = a.to(tl.float32), g.to(tl.float32)
            product = tl.dot(tl.trans(g), a, acc=product, input_precision=PRECISION)
        if ONE_TOKEN:
            total += product
        else:
            total += product * product
    inside = (rows < dout)[:, None] & (columns < din)[None, :]
    target = out_ptr + rows.to(tl.int64)[:, None] * din + columns[None, :]
    tl.store(target, tl.load(target, mask=inside, other=0.0) + total, mask=inside)
