"""Triton kernels of the running average of squared gradients and of the EWC penalty."""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false, reportAttributeAccessIssue=false
# Kernels are a language of their own in Python's syntax: a call returns what its body computes, which Python's types
# cannot say.

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def squared_gradient_ema_kernel(
    pointers_ptr: tl.tensor,
    sizes_ptr: tl.tensor,
    blocks_ptr: tl.tensor,
    decay: tl.tensor,
    GRAD: tl.constexpr,
    ALIGNED: tl.constexpr,
    ELEMENTS: tl.constexpr,
) -> None:
    """One block of `fisher <- decay fisher + (1 - decay) grad^2`."""
    tensor, offsets, inside = _block_of_tensor(sizes_ptr, blocks_ptr, ALIGNED, ELEMENTS)
    fisher_ptr = _pointer(pointers_ptr + tensor * 2, tl.float32, ALIGNED)
    grad_ptr = _pointer(pointers_ptr + tensor * 2 + 1, GRAD, ALIGNED)
    fisher = tl.load(fisher_ptr + offsets, mask=inside, other=0.0)
    grad = tl.load(grad_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    tl.store(fisher_ptr + offsets, decay * fisher + (1.0 - decay) * grad * grad, mask=inside)


@triton.jit
def ewc_kernel(
    pointers_ptr: tl.tensor,
    sizes_ptr: tl.tensor,
    blocks_ptr: tl.tensor,
    partial_ptr: tl.tensor,
    weight: tl.tensor,
    PARAM: tl.constexpr,
    ANCHOR: tl.constexpr,
    ALIGNED: tl.constexpr,
    ELEMENTS: tl.constexpr,
) -> None:
    """One block of `grad += weight F (param - anchor)`, and its part of `sum F (param - anchor)^2`."""
    tensor, offsets, inside = _block_of_tensor(sizes_ptr, blocks_ptr, ALIGNED, ELEMENTS)
    grad_ptr = _pointer(pointers_ptr + tensor * 4, PARAM, ALIGNED)
    param_ptr = _pointer(pointers_ptr + tensor * 4 + 1, PARAM, ALIGNED)
    anchor_ptr = _pointer(pointers_ptr + tensor * 4 + 2, ANCHOR, ALIGNED)
    fisher_ptr = _pointer(pointers_ptr + tensor * 4 + 3, tl.float32, ALIGNED)
    param = tl.load(param_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    anchor = tl.load(anchor_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    fisher = tl.load(fisher_ptr + offsets, mask=inside, other=0.0)
    grad = tl.load(grad_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    offset = param - anchor
    pull = fisher * offset
    tl.store(grad_ptr + offsets, (grad + weight * pull).to(PARAM), mask=inside)
    tl.store(partial_ptr + tl.program_id(0), tl.sum(pull * offset, 0))


@triton.jit
def _block_of_tensor(
    sizes_ptr: tl.tensor, blocks_ptr: tl.tensor, ALIGNED: tl.constexpr, ELEMENTS: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Tensor of this program, the elements of it that the program handles, and which of those exist."""
    tensor = tl.load(blocks_ptr + tl.program_id(0) * 2)
    offsets = tl.load(blocks_ptr + tl.program_id(0) * 2 + 1) * ELEMENTS + tl.arange(0, ELEMENTS)
    size = tl.load(sizes_ptr + tensor)
    if ALIGNED:
        size = tl.multiple_of(size, 16)
    return tensor, offsets, offsets < size


@triton.jit
def _pointer(address_ptr: tl.tensor, DTYPE: tl.constexpr, ALIGNED: tl.constexpr) -> tl.tensor:
    """Pointer from an address in a table; its alignment must be said, or loads are not vectorized."""
    pointer = tl.load(address_ptr).to(tl.pointer_type(DTYPE))
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer
