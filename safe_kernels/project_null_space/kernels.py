"""Triton kernels of the null-space projection.

A launch covers tensors of one dtype, one way of storing the basis and one alignment, all of them constants: no branch
stands around a load, so that loads are vectors and, before matrix products, asynchronous copies.

A basis is stored by element ([d, r] row-major: the r entries of an element side by side) or by vector ([r, d]).
"""

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
    X: tl.constexpr,
    BY_VECTOR: tl.constexpr,
    ALIGNED: tl.constexpr,
    ONE_SIDED: tl.constexpr,
    WIDEN: tl.constexpr,
    PRECISION: tl.constexpr,
    RANK: tl.constexpr,
    INNER: tl.constexpr,
    ROWS: tl.constexpr,
    SLICES: tl.constexpr,
    COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """Project a block of rows of one tensor: coefficients X U in registers, then X -= (X U) U^T.

    A tile is [ROWS, COLUMNS], or [SLICES, ROWS, COLUMNS]: slices of the columns side by side, a warp each, whose
    coefficients are summed in a fixed order. Few rows with many warps is what the second reading of X finds in the L2
    cache, which does not hold all rows that a GPU has in work.

    RANK: columns of the first product. INNER: the same of the second, which takes no fewer than 16.

    Offsets inside the block are 32-bit (the launch sees to it), that of the block is 64-bit.
    """
    tensor, block = _work(blocks_ptr)
    x_ptr, basis_ptr, rows, dimension, rank = _operands(
        pointers_ptr, shapes_ptr, tensor, X, tl.float32, BY_VECTOR, ALIGNED
    )
    dimension = dimension.to(tl.int32)
    rank = rank.to(tl.int32)
    if ALIGNED:  # said again of the converted numbers
        dimension = tl.multiple_of(dimension, 4 if tl.float32 == X else 8)
        if not BY_VECTOR:
            rank = tl.multiple_of(rank, 4)
    x_ptr += block.to(tl.int64) * ROWS * dimension
    row = tl.arange(0, ROWS)
    inside_rows = tl.expand_dims(row < rows - block.to(tl.int64) * ROWS, -1)
    start_of_row = tl.expand_dims(row * dimension, -1)
    tile_column = tl.arange(0, COLUMNS)
    coefficients = tl.zeros([ROWS, RANK], tl.float32)
    if SLICES > 1:
        tile_column = (tl.arange(0, SLICES) * COLUMNS)[:, None] + tile_column[None, :]
        coefficients = tl.zeros([SLICES, ROWS, RANK], tl.float32)
    for start in tl.range(0, dimension, SLICES * COLUMNS, num_stages=STAGES):
        column = start + tile_column
        offsets = start_of_row + tl.expand_dims(column, -2)
        inside = inside_rows & tl.expand_dims(column < dimension, -2)
        x = tl.load(x_ptr + offsets, mask=inside, other=0.0)
        u = _load_basis(basis_ptr, column, dimension, rank, RANK, BY_VECTOR)
        coefficients = _add_coefficients(coefficients, x, u, WIDEN, PRECISION)
    if SLICES > 1:
        coefficients = tl.sum(coefficients, 0)
    if ONE_SIDED:
        coefficients = tl.maximum(coefficients, 0.0)
    if INNER > RANK:
        zeros = tl.zeros([ROWS, INNER - RANK], tl.float32)
        coefficients = tl.reshape(tl.permute(tl.join(coefficients, zeros), (0, 2, 1)), (ROWS, INNER))
    if SLICES > 1:
        coefficients = tl.broadcast_to(coefficients[None, :, :], (SLICES, ROWS, INNER))
    # Backwards: what was read last is still in the L2 cache, also where the row blocks in work do not all fit into it.
    # What is written leaves it first.
    blocks = tl.cdiv(dimension, SLICES * COLUMNS)
    for done in tl.range(0, blocks, num_stages=STAGES):
        column = (blocks - 1 - done) * SLICES * COLUMNS + tile_column
        offsets = start_of_row + tl.expand_dims(column, -2)
        inside = inside_rows & tl.expand_dims(column < dimension, -2)
        x = tl.load(x_ptr + offsets, mask=inside, other=0.0)
        u = _load_basis(basis_ptr, column, dimension, rank, INNER, BY_VECTOR)
        component = _component(coefficients, u, X, WIDEN, PRECISION)
        tl.store(x_ptr + offsets, (x.to(tl.float32) - component).to(X), mask=inside, eviction_policy="evict_first")


@triton.jit
def flat_coefficients_kernel(
    pointers_ptr: tl.tensor,
    shapes_ptr: tl.tensor,
    blocks_ptr: tl.tensor,
    partial_ptr: tl.tensor,
    X: tl.constexpr,
    BASIS: tl.constexpr,
    BY_VECTOR: tl.constexpr,
    ALIGNED: tl.constexpr,
    RANK: tl.constexpr,
    ELEMENTS: tl.constexpr,
    STEP: tl.constexpr,
) -> None:
    """Coefficients of a part of one tensor, seen as a vector. Sums stay in their threads until the part's end."""
    tensor, block = _work(blocks_ptr)
    x_ptr, basis_ptr, _, dimension, rank = _operands(pointers_ptr, shapes_ptr, tensor, X, BASIS, BY_VECTOR, ALIGNED)
    first = block.to(tl.int64) * ELEMENTS
    sums = tl.zeros([STEP, RANK], tl.float32)
    for start in range(0, ELEMENTS, STEP):
        element = first + start + tl.arange(0, STEP)
        x = tl.load(x_ptr + element, mask=element < dimension, other=0.0).to(tl.float32)
        u = _load_basis(basis_ptr, element, dimension, rank, RANK, BY_VECTOR).to(tl.float32)
        sums += x[:, None] * u
    tl.store(partial_ptr + tl.program_id(0) * RANK + tl.arange(0, RANK), tl.sum(sums, 0))


@triton.jit
def flat_reduce_kernel(
    partial_ptr: tl.tensor,
    bounds_ptr: tl.tensor,
    tensors_ptr: tl.tensor,
    corrections_ptr: tl.tensor,
    coefficients_ptr: tl.tensor,
    ONE_SIDED: tl.constexpr,
    CORRECTED: tl.constexpr,
    RANK: tl.constexpr,
    PARTS: tl.constexpr,
) -> None:
    """Sum the partial coefficients of one tensor, in a fixed order: place by place of a tile, then over the tile.

    With a basis that is not orthonormal, the coefficients are those sums times (U^T U)^-1.
    """
    place = tl.program_id(0)
    lane = tl.arange(0, RANK)
    first = tl.load(bounds_ptr + place)
    end = tl.load(bounds_ptr + place + 1)
    sums = tl.zeros([PARTS, RANK], tl.float32)
    for start in range(first, end, PARTS):
        part = start + tl.arange(0, PARTS)
        offsets = part[:, None].to(tl.int64) * RANK + lane[None, :]
        sums += tl.load(partial_ptr + offsets, mask=(part < end)[:, None], other=0.0)
    total = tl.sum(sums, 0)
    if CORRECTED:
        offsets = lane[:, None] * RANK + lane[None, :]
        correction = tl.load(corrections_ptr + place * RANK * RANK + offsets)
        total = tl.sum(correction * total[:, None], 0)  # symmetric: rows are columns
    if ONE_SIDED:
        total = tl.maximum(total, 0.0)
    tl.store(coefficients_ptr + tl.load(tensors_ptr + place) * RANK + lane, total)


@triton.jit
def flat_subtract_kernel(
    pointers_ptr: tl.tensor,
    shapes_ptr: tl.tensor,
    blocks_ptr: tl.tensor,
    coefficients_ptr: tl.tensor,
    X: tl.constexpr,
    BASIS: tl.constexpr,
    BY_VECTOR: tl.constexpr,
    ALIGNED: tl.constexpr,
    RANK: tl.constexpr,
    ELEMENTS: tl.constexpr,
    STEP: tl.constexpr,
) -> None:
    """Subtract the component in the basis from a part of one tensor, seen as a vector."""
    tensor, block = _work(blocks_ptr)
    x_ptr, basis_ptr, _, dimension, rank = _operands(pointers_ptr, shapes_ptr, tensor, X, BASIS, BY_VECTOR, ALIGNED)
    first = block.to(tl.int64) * ELEMENTS
    coefficients = tl.load(coefficients_ptr + tensor * RANK + tl.arange(0, RANK))
    for start in range(0, ELEMENTS, STEP):
        element = first + start + tl.arange(0, STEP)
        inside = element < dimension
        x = tl.load(x_ptr + element, mask=inside, other=0.0).to(tl.float32)
        u = _load_basis(basis_ptr, element, dimension, rank, RANK, BY_VECTOR).to(tl.float32)
        x -= tl.sum(u * coefficients[None, :], 1)
        tl.store(x_ptr + element, x.to(X), mask=inside)


@triton.jit
def _work(blocks_ptr: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Tensor of this program, and the block of it."""
    return tl.load(blocks_ptr + tl.program_id(0) * 2), tl.load(blocks_ptr + tl.program_id(0) * 2 + 1)


@triton.jit
def _operands(
    pointers_ptr: tl.tensor,
    shapes_ptr: tl.tensor,
    tensor: tl.tensor,
    X: tl.constexpr,
    BASIS: tl.constexpr,
    BY_VECTOR: tl.constexpr,
    ALIGNED: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Pointers to a tensor and its basis; rows, dimension and rank.

    Divisibility must be said of what comes from a table, or accesses are not vectorized.
    """
    x_ptr = tl.load(pointers_ptr + tensor * 2).to(tl.pointer_type(X))
    basis_ptr = tl.load(pointers_ptr + tensor * 2 + 1).to(tl.pointer_type(BASIS))
    rows = tl.load(shapes_ptr + tensor * 3)
    dimension = tl.load(shapes_ptr + tensor * 3 + 1)
    rank = tl.load(shapes_ptr + tensor * 3 + 2)
    if ALIGNED:
        x_ptr = tl.multiple_of(x_ptr, 16)
        basis_ptr = tl.multiple_of(basis_ptr, 16)
        dimension = tl.multiple_of(dimension, 4 if tl.float32 == X and tl.float32 == BASIS else 8)
        if not BY_VECTOR:
            rank = tl.multiple_of(rank, 4)
    return x_ptr, basis_ptr, rows, dimension, rank


@triton.jit
def _load_basis(
    basis_ptr: tl.tensor,
    element: tl.tensor,
    dimension: tl.tensor,
    rank: tl.tensor,
    RANK: tl.constexpr,
    BY_VECTOR: tl.constexpr,
) -> tl.tensor:
    """Rows of a basis [d, r], padded with zero columns to RANK: [..., RANK] for elements [...]."""
    lane = tl.arange(0, RANK)
    element = tl.expand_dims(element, -1)
    inside = (element < dimension) & (lane < rank)
    offsets = lane * dimension + element if BY_VECTOR else element * rank + lane
    return tl.load(basis_ptr + offsets, mask=inside, other=0.0)


@triton.jit
def _add_coefficients(
    coefficients: tl.tensor, x: tl.tensor, u: tl.tensor, WIDEN: tl.constexpr, PRECISION: tl.constexpr
) -> tl.tensor:
    """Coefficients + x u. A half-precision x is exact as an operand; u is the sum of two of its dtype, to 2^-17."""
    if x.dtype == tl.float32:
        return tl.dot(x, u, acc=coefficients, input_precision=PRECISION)
    high = u.to(x.dtype)
    low = (u - high.to(tl.float32)).to(x.dtype)
    return _add_product(x, high, _add_product(x, low, coefficients, WIDEN), WIDEN)


@triton.jit
def _component(
    coefficients: tl.tensor, u: tl.tensor, X: tl.constexpr, WIDEN: tl.constexpr, PRECISION: tl.constexpr
) -> tl.tensor:
    """Coefficients u^T, in three bfloat16 products for half-precision tensors: to 2^-16, and no overflow."""
    transposed = tl.trans(u)
    if tl.float32 == X:
        return tl.dot(coefficients, transposed, input_precision=PRECISION)
    high, low = _halves(coefficients)
    basis_high, basis_low = _halves(transposed)
    component = _product(low, basis_high, WIDEN)
    component = _add_product(high, basis_low, component, WIDEN)
    return _add_product(high, basis_high, component, WIDEN)


@triton.jit
def _product(left: tl.tensor, right: tl.tensor, WIDEN: tl.constexpr) -> tl.tensor:
    """Left right, of half-precision operands."""
    if WIDEN:
        left = left.to(tl.float32)
        right = right.to(tl.float32)
    return tl.dot(left, right)


@triton.jit
def _add_product(left: tl.tensor, right: tl.tensor, total: tl.tensor, WIDEN: tl.constexpr) -> tl.tensor:
    """Total + left right, of half-precision operands."""
    if WIDEN:
        left = left.to(tl.float32)
        right = right.to(tl.float32)
    return tl.dot(left, right, acc=total)


@triton.jit
def _halves(x: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """The two bfloat16 numbers whose sum is x to 2^-17."""
    high = x.to(tl.bfloat16)
    return high, (x - high.to(tl.float32)).to(tl.bfloat16)
