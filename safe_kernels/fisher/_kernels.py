"""Triton kernels that go over many tensors element by element: the EWC penalty and the squared-gradient average."""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false, reportAttributeAccessIssue=false
# Kernels are a language of their own in Python's syntax: a call returns what its body computes, which Python's types
# cannot say.

from __future__ import annotations

import triton
import triton.language as tl


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
    row, start, left = _block(sizes_ptr, blocks_ptr, ELEMENTS)
    grad_ptr = _pointer(addresses_ptr + row * 4, start, GRAD, ALIGNED)
    param_ptr = _pointer(addresses_ptr + row * 4 + 1, start, PARAM, ALIGNED)
    anchor_ptr = _pointer(addresses_ptr + row * 4 + 2, start, ANCHOR, ALIGNED)
    fisher_ptr = _pointer(addresses_ptr + row * 4 + 3, start, tl.float32, ALIGNED)
    lane = tl.arange(0, ELEMENTS)
    if left >= ELEMENTS:
        part = _ewc_block(grad_ptr + lane, param_ptr + lane, anchor_ptr + lane, fisher_ptr + lane, weight, None, GRAD)
    else:
        inside = lane < left
        part = _ewc_block(grad_ptr + lane, param_ptr + lane, anchor_ptr + lane, fisher_ptr + lane, weight, inside, GRAD)
    tl.store(partial_ptr + tl.program_id(0), 0.5 * weight * part)


@triton.jit
def squared_gradient_ema_kernel(
    addresses_ptr: tl.tensor,
    sizes_ptr: tl.tensor,
    blocks_ptr: tl.tensor,
    decay: tl.tensor,
    share: tl.tensor,
    GRAD: tl.constexpr,
    ALIGNED: tl.constexpr,
    ELEMENTS: tl.constexpr,
) -> None:
    """One block of `fisher <- decay fisher + (1 - decay) grad^2`."""
    row, start, left = _block(sizes_ptr, blocks_ptr, ELEMENTS)
    fisher_ptr = _pointer(addresses_ptr + row * 2, start, tl.float32, ALIGNED)
    grad_ptr = _pointer(addresses_ptr + row * 2 + 1, start, GRAD, ALIGNED)
    # Four elements an access, whatever the dtypes: one layout for both, or values go through shared memory.
    lane = tl.max_contiguous(tl.arange(0, ELEMENTS), 4)
    if left >= ELEMENTS:
        _average_block(fisher_ptr + lane, grad_ptr + lane, decay, share, None)
    else:
        _average_block(fisher_ptr + lane, grad_ptr + lane, decay, share, lane < left)


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
    fisher = _load(fisher_ptr, inside)
    offset = _load(param_ptr, inside) - _load(anchor_ptr, inside)
    pull = fisher * offset
    tl.store(grad_ptr, (_load(grad_ptr, inside) + weight * pull).to(GRAD), mask=inside)
    return tl.sum(pull * offset, 0)


@triton.jit
def _average_block(
    fisher_ptr: tl.tensor, grad_ptr: tl.tensor, decay: tl.tensor, share: tl.tensor, inside: tl.tensor
) -> None:
    grad = _load(grad_ptr, inside)
    tl.store(fisher_ptr, decay * _load(fisher_ptr, inside) + share * grad * grad, mask=inside)


@triton.jit
def _load(pointer: tl.tensor, inside: tl.tensor) -> tl.tensor:
    """Elements in float32, zero outside a mask, which may be None."""
    x = tl.load(pointer) if inside is None else tl.load(pointer, mask=inside, other=0.0)
    return x.to(tl.float32)


@triton.jit
def _block(
    sizes_ptr: tl.tensor, blocks_ptr: tl.tensor, ELEMENTS: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Row of this program, the first element that it handles, and how many there are from there on (at most 2^30)."""
    row = tl.load(blocks_ptr + tl.program_id(0) * 2)
    start = tl.load(blocks_ptr + tl.program_id(0) * 2 + 1).to(tl.int64) * ELEMENTS
    left = tl.minimum(tl.load(sizes_ptr + row) - start, 1 << 30).to(tl.int32)
    return row, start, left


@triton.jit
def _pointer(address_ptr: tl.tensor, start: tl.tensor, DTYPE: tl.constexpr, ALIGNED: tl.constexpr) -> tl.tensor:
    """Pointer to a row's element; its alignment must be said, or accesses are not vectorized."""
    pointer = tl.load(address_ptr).to(tl.pointer_type(DTYPE)) + start
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer
