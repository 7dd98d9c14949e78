"""Triton kernels of the null-space projection."""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false, reportAttributeAccessIssue=false
# Kernels are a language of their own in Python's syntax: a call returns what its body computes, which Python's types
# cannot say.

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def row_projection_kernel(
    pointers_ptr: tl.tensor,
    shapes_ptr: tl.tensor,
    blocks_ptr: tl.tensor,
    ONE_SIDED: tl.constexpr,
    ALIGNED: tl.constexpr,
    RANK_ALIGNED: tl.constexpr,
    PRECISION: tl.constexpr,
    RANK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Project a block of rows of one tensor: coefficients X U in registers, then X -= (X U) U^T."""
    tensor = tl.load(blocks_ptr + tl.program_id(0) * 2)
    block = tl.load(blocks_ptr + tl.program_id(0) * 2 + 1)
    address, basis_ptr, rows, dimension, rank, code = _tensor(pointers_ptr, shapes_ptr, tensor, ALIGNED, RANK_ALIGNED)
    row = block * ROWS + tl.arange(0, ROWS)
    start_of_row = (row * dimension)[:, None]
    inside_rows = (row < rows)[:, None]
    coefficients = tl.zeros([ROWS, RANK], tl.float32)
    for start in range(0, dimension, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = inside_rows & (column < dimension)[None, :]
        x = _load(address, start_of_row + column[None, :], inside, code, ALIGNED)
        u = _load_basis(basis_ptr, column, dimension, rank, RANK)
        coefficients = tl.dot(x, u, acc=coefficients, input_precision=PRECISION)
    if ONE_SIDED:
        coefficients = tl.maximum(coefficients, 0.0)
    for start in range(0, dimension, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = inside_rows & (column < dimension)[None, :]
        offsets = start_of_row + column[None, :]
        x = _load(address, offsets, inside, code, ALIGNED)
        u = _load_basis(basis_ptr, column, dimension, rank, RANK)
        x -= tl.dot(coefficients, tl.trans(u), input_precision=PRECISION)
        _store(address, offsets, x, inside, code, ALIGNED)


@triton.jit
def flat_partial_kernel(
    pointers_ptr: tl.tensor,
    shapes_ptr: tl.tensor,
    blocks_ptr: tl.tensor,
    partial_ptr: tl.tensor,
    ALIGNED: tl.constexpr,
    RANK_ALIGNED: tl.constexpr,
    RANK: tl.constexpr,
    ELEMENTS: tl.constexpr,
    STEP: tl.constexpr,
) -> None:
    """Coefficients of a part of one tensor, seen as a vector."""
    tensor = tl.load(blocks_ptr + tl.program_id(0) * 2)
    block = tl.load(blocks_ptr + tl.program_id(0) * 2 + 1)
    address, basis_ptr, _, dimension, rank, code = _tensor(pointers_ptr, shapes_ptr, tensor, ALIGNED, RANK_ALIGNED)
    coefficients = tl.zeros([RANK], tl.float32)
    for start in range(0, ELEMENTS, STEP):
        element = block * ELEMENTS + start + tl.arange(0, STEP)
        x = _load(address, element, element < dimension, code, ALIGNED)
        u = _load_basis(basis_ptr, element, dimension, rank, RANK)
        coefficients += tl.sum(x[:, None] * u, 0)
    tl.store(partial_ptr + tl.program_id(0) * RANK + tl.arange(0, RANK), coefficients)


@triton.jit
def flat_reduce_kernel(
    partial_ptr: tl.tensor,
    bounds_ptr: tl.tensor,
    coefficients_ptr: tl.tensor,
    ONE_SIDED: tl.constexpr,
    RANK: tl.constexpr,
) -> None:
    """Sum the partial coefficients of one tensor, in a fixed order."""
    tensor = tl.program_id(0)
    lane = tl.arange(0, RANK)
    total = tl.zeros([RANK], tl.float32)
    for block in range(tl.load(bounds_ptr + tensor), tl.load(bounds_ptr + tensor + 1)):
        total += tl.load(partial_ptr + block * RANK + lane)
    if ONE_SIDED:
        total = tl.maximum(total, 0.0)
    tl.store(coefficients_ptr + tensor * RANK + lane, total)


@triton.jit
def flat_subtract_kernel(
    pointers_ptr: tl.tensor,
    shapes_ptr: tl.tensor,
    blocks_ptr: tl.tensor,
    coefficients_ptr: tl.tensor,
    ALIGNED: tl.constexpr,
    RANK_ALIGNED: tl.constexpr,
    RANK: tl.constexpr,
    ELEMENTS: tl.constexpr,
    STEP: tl.constexpr,
) -> None:
    """Subtract the component in the basis from a part of one tensor, seen as a vector."""
    tensor = tl.load(blocks_ptr + tl.program_id(0) * 2)
    block = tl.load(blocks_ptr + tl.program_id(0) * 2 + 1)
    address, basis_ptr, _, dimension, rank, code = _tensor(pointers_ptr, shapes_ptr, tensor, ALIGNED, RANK_ALIGNED)
    coefficients = tl.load(coefficients_ptr + tensor * RANK + tl.arange(0, RANK))
    for start in range(0, ELEMENTS, STEP):
        element = block * ELEMENTS + start + tl.arange(0, STEP)
        inside = element < dimension
        x = _load(address, element, inside, code, ALIGNED)
        u = _load_basis(basis_ptr, element, dimension, rank, RANK)
        x -= tl.sum(u * coefficients[None, :], 1)
        _store(address, element, x, inside, code, ALIGNED)


@triton.jit
def _tensor(
    pointers_ptr: tl.tensor, shapes_ptr: tl.tensor, tensor: tl.tensor, ALIGNED: tl.constexpr, RANK_ALIGNED: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Address of a tensor, pointer to its basis, rows, dimension, rank and dtype code.

    Divisibility must be said of what comes from a table, or accesses are not vectorized.
    """
    address = tl.load(pointers_ptr + tensor * 2)
    basis_ptr = tl.load(pointers_ptr + tensor * 2 + 1).to(tl.pointer_type(tl.float32))
    rows = tl.load(shapes_ptr + tensor * 4)
    dimension = tl.load(shapes_ptr + tensor * 4 + 1)
    rank = tl.load(shapes_ptr + tensor * 4 + 2)
    code = tl.load(shapes_ptr + tensor * 4 + 3)
    if ALIGNED:
        dimension = tl.multiple_of(dimension, 16)
    if RANK_ALIGNED:
        basis_ptr = tl.multiple_of(basis_ptr, 16)
        rank = tl.multiple_of(rank, 8)
    return address, basis_ptr, rows, dimension, rank, code


@triton.jit
def _load(
    address: tl.tensor, offsets: tl.tensor, inside: tl.tensor, code: tl.tensor, ALIGNED: tl.constexpr
) -> tl.tensor:
    """Elements of a tensor of any of the three dtypes, in float32."""
    if code == 0:
        x = tl.load(_typed(address, tl.float32, ALIGNED) + offsets, mask=inside, other=0.0)
    elif code == 1:
        x = tl.load(_typed(address, tl.bfloat16, ALIGNED) + offsets, mask=inside, other=0.0).to(tl.float32)
    else:
        x = tl.load(_typed(address, tl.float16, ALIGNED) + offsets, mask=inside, other=0.0).to(tl.float32)
    return x


@triton.jit
def _store(
    address: tl.tensor,
    offsets: tl.tensor,
    x: tl.tensor,
    inside: tl.tensor,
    code: tl.tensor,
    ALIGNED: tl.constexpr,
) -> None:
    """Store float32 values into a tensor of any of the three dtypes."""
    if code == 0:
        tl.store(_typed(address, tl.float32, ALIGNED) + offsets, x, mask=inside)
    elif code == 1:
        tl.store(_typed(address, tl.bfloat16, ALIGNED) + offsets, x.to(tl.bfloat16), mask=inside)
    else:
        tl.store(_typed(address, tl.float16, ALIGNED) + offsets, x.to(tl.float16), mask=inside)


@triton.jit
def _typed(address: tl.tensor, DTYPE: tl.constexpr, ALIGNED: tl.constexpr) -> tl.tensor:
    """Pointer from an address in a table; its alignment must be said, or accesses are not vectorized."""
    pointer = address.to(tl.pointer_type(DTYPE))
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit
def _load_basis(
    basis_ptr: tl.tensor, element: tl.tensor, dimension: tl.tensor, rank: tl.tensor, RANK: tl.constexpr
) -> tl.tensor:
    """Rows of a basis [d, r], padded with zero columns to RANK."""
    lane = tl.arange(0, RANK)
    inside = (element < dimension)[:, None] & (lane < rank)[None, :]
    return tl.load(basis_ptr + element.to(tl.int64)[:, None] * rank + lane[None, :], mask=inside, other=0.0)
