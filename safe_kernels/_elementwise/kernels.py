"""Triton functions of kernels that go over many tensors element by element: rows, pointers, loads."""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false, reportAttributeAccessIssue=false
# Kernels are a language of their own in Python's syntax: a call returns what its body computes, which Python's types
# cannot say.

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_float32(pointer: tl.tensor, inside: tl.tensor) -> tl.tensor:
    """Elements in float32, zero outside a mask, which may be None."""
    x = tl.load(pointer) if inside is None else tl.load(pointer, mask=inside, other=0.0)
    return x.to(tl.float32)


@triton.jit
def block_of_program(
    sizes_ptr: tl.tensor, blocks_ptr: tl.tensor, ELEMENTS: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Row of this program, the first element that it handles, and how many there are from there on (at most 2^30)."""
    row = tl.load(blocks_ptr + tl.program_id(0) * 2)
    start = tl.load(blocks_ptr + tl.program_id(0) * 2 + 1).to(tl.int64) * ELEMENTS
    left = tl.minimum(tl.load(sizes_ptr + row) - start, 1 << 30).to(tl.int32)
    return row, start, left


@triton.jit
def row_pointer(address_ptr: tl.tensor, start: tl.tensor, DTYPE: tl.constexpr, ALIGNED: tl.constexpr) -> tl.tensor:
    """Pointer to a row's element; its alignment must be said, or accesses are not vectorized."""
    pointer = tl.load(address_ptr).to(tl.pointer_type(DTYPE)) + start
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer
