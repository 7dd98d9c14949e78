"""Triton kernel of the EWC penalty."""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false, reportAttributeAccessIssue=false
# Kernels are a language of their own in Python's syntax: a call returns what its body computes, which Python's types
# cannot say.

from __future__ import annotations

import triton
import triton.language as tl

from safe_kernels._elementwise.kernels import block_of_program, load_float32, row_pointer


@triton.jit
def ewc_kernel(
    addresses_ptr: tl.tensor,
    sizes_ptr: tl.tensor,
    blocks_ptr: tl.tensor,
    partial_ptr: tl.tensor,
    weight: tl.tensor,
    GRAD: tl.constexpr,
    PARAM: tl.constexpr,
    ANCHOR: tl.constexpr,
    ALIGNED: tl.constexpr,
    ELEMENTS: tl.constexpr,
) -> None:
    """One block of `grad += weight F (param - anchor)`, and its part of `weight/2 sum F (param - anchor)^2`."""
    row, start, left = block_of_program(sizes_ptr, blocks_ptr, ELEMENTS)
    grad_ptr = row_pointer(addresses_ptr + row * 4, start, GRAD, ALIGNED)
    param_ptr = row_pointer(addresses_ptr + row * 4 + 1, start, PARAM, ALIGNED)
    anchor_ptr = row_pointer(addresses_ptr + row * 4 + 2, start, ANCHOR, ALIGNED)
    fisher_ptr = row_pointer(addresses_ptr + row * 4 + 3, start, tl.float32, ALIGNED)
    lane = tl.arange(0, ELEMENTS)
    if left >= ELEMENTS:
        part = _ewc_block(grad_ptr + lane, param_ptr + lane, anchor_ptr + lane, fisher_ptr + lane, weight, None, GRAD)
    else:
        inside = lane < left
        part = _ewc_block(grad_ptr + lane, param_ptr + lane, anchor_ptr + lane, fisher_ptr + lane, weight, inside, GRAD)
    tl.store(partial_ptr + tl.program_id(0), 0.5 * weight * part)


@triton.jit
def _ewc_block(
    grad_ptr: tl.tensor,
    param_ptr: tl.tensor,
    anchor_ptr: tl.tensor,
    fisher_ptr: tl.tensor,
    weight: tl.tensor,
    inside: tl.tensor,
    GRAD: tl.constexpr,
) -> tl.tensor:
    # Without a mask, what is outside of it needs no value either.
    fisher = load_float32(fisher_ptr, inside)
    offset = load_float32(param_ptr, inside) - load_float32(anchor_ptr, inside)
    pull = fisher * offset
    tl.store(grad_ptr, (load_float32(grad_ptr, inside) + weight * pull).to(GRAD), mask=inside)
    return tl.sum(pull * offset, 0)
