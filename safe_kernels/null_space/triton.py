"""Triton kernels of the null-space projection: many tensors in one launch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from safe_kernels._backend import interpreting
from safe_kernels._triton import dot_precision, pointer_table
from safe_kernels.null_space import fallback

MAXIMUM_RANK = 64
"""Coefficients of a row block are held in registers; a larger basis is projected by matrix products."""

RANK_PADS = (16, 32, 64)
"""Ranks are padded to these: `tl.dot` needs an inner dimension of 16 at least."""

ROWS = 16
"""Rows a program owns. Few, so that the second read of a row block still finds it in the L2 cache."""

COLUMNS = 128
ROW_WARPS = 4
FLAT_ELEMENTS = 2048
FLAT_STEP = 128
FLAT_WARPS = 4

_INTERPRETER_COLUMNS = 16
_INTERPRETER_ELEMENTS = 64
_DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


@triton.jit
def row_projection_kernel(
    pointers_ptr: tl.tensor,
    shapes_ptr: tl.tensor,
    blocks_ptr: tl.tensor,
    ONE_SIDED: tl.constexpr,
    ALIGNED: tl.constexpr,
    PRECISION: tl.constexpr,
    RANK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Project a block of rows of one tensor: coefficients X U in registers, then X -= (X U) U^T."""
    tensor = tl.load(blocks_ptr + tl.program_id(0) * 2)
    block = tl.load(blocks_ptr + tl.program_id(0) * 2 + 1)
    address, basis_ptr, rows, dimension, rank, code = _tensor(pointers_ptr, shapes_ptr, tensor, ALIGNED)
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
    RANK: tl.constexpr,
    ELEMENTS: tl.constexpr,
    STEP: tl.constexpr,
) -> None:
    """Coefficients of a part of one tensor, seen as a vector."""
    tensor = tl.load(blocks_ptr + tl.program_id(0) * 2)
    block = tl.load(blocks_ptr + tl.program_id(0) * 2 + 1)
    address, basis_ptr, _, dimension, rank, code = _tensor(pointers_ptr, shapes_ptr, tensor, ALIGNED)
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
    RANK: tl.constexpr,
    ELEMENTS: tl.constexpr,
    STEP: tl.constexpr,
) -> None:
    """Subtract the component in the basis from a part of one tensor, seen as a vector."""
    tensor = tl.load(blocks_ptr + tl.program_id(0) * 2)
    block = tl.load(blocks_ptr + tl.program_id(0) * 2 + 1)
    address, basis_ptr, _, dimension, rank, code = _tensor(pointers_ptr, shapes_ptr, tensor, ALIGNED)
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
    pointers_ptr: tl.tensor, shapes_ptr: tl.tensor, tensor: tl.tensor, ALIGNED: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Address of a tensor, pointer to its basis, rows, dimension, rank and dtype code."""
    address = tl.load(pointers_ptr + tensor * 2)
    basis_ptr = tl.load(pointers_ptr + tensor * 2 + 1).to(tl.pointer_type(tl.float32))
    rows = tl.load(shapes_ptr + tensor * 4)
    dimension = tl.load(shapes_ptr + tensor * 4 + 1)
    rank = tl.load(shapes_ptr + tensor * 4 + 2)
    code = tl.load(shapes_ptr + tensor * 4 + 3)
    if ALIGNED:
        dimension = tl.multiple_of(dimension, 16)
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


def project_null_space_(tensors: Sequence[Tensor], bases: Sequence[Tensor], one_sided: bool) -> None:
    """Project every tensor, in place: one launch for the row forms, three for the flat forms."""
    chosen = [i for i, (x, u) in enumerate(zip(tensors, bases, strict=True)) if x.numel() and u.shape[1]]
    wide = [i for i in chosen if bases[i].shape[1] > MAXIMUM_RANK]
    fallback.project_null_space_([tensors[i] for i in wide], [bases[i] for i in wide], one_sided)
    narrow = [i for i in chosen if bases[i].shape[1] <= MAXIMUM_RANK]
    flat = [i for i in narrow if tensors[i].numel() == bases[i].shape[0]]
    rows = [i for i in narrow if tensors[i].numel() != bases[i].shape[0]]
    for indices, launch in ((rows, _launch_rows), (flat, _launch_flat)):
        if indices:
            packed = [tensors[i].contiguous() for i in indices]
            launch(packed, [bases[i].contiguous() for i in indices], one_sided)
            for i, result in zip(indices, packed, strict=True):
                if result is not tensors[i]:
                    tensors[i].copy_(result)


def _launch_rows(tensors: Sequence[Tensor], bases: Sequence[Tensor], one_sided: bool) -> None:
    shapes = _shapes(tensors, bases)
    table, blocks, _ = _tables(shapes, ROWS, True, tensors[0].device)
    row_projection_kernel[(blocks.shape[0],)](
        pointer_table((tensors, bases), tensors[0].device),
        table,
        blocks,
        ONE_SIDED=one_sided,
        ALIGNED=_aligned(tensors, shapes),
        PRECISION=dot_precision(),
        RANK=_padded_rank(shapes),
        ROWS=ROWS,
        COLUMNS=_INTERPRETER_COLUMNS if interpreting() else COLUMNS,
        num_warps=ROW_WARPS,
    )


def _launch_flat(tensors: Sequence[Tensor], bases: Sequence[Tensor], one_sided: bool) -> None:
    shapes = _shapes(tensors, bases)
    elements, step = (_INTERPRETER_ELEMENTS, 16) if interpreting() else (FLAT_ELEMENTS, FLAT_STEP)
    table, blocks, bounds = _tables(shapes, elements, False, tensors[0].device)
    pointers = pointer_table((tensors, bases), tensors[0].device)
    aligned, rank = _aligned(tensors, shapes), _padded_rank(shapes)
    partial = tensors[0].new_empty((blocks.shape[0], rank), dtype=torch.float32)
    coefficients = tensors[0].new_empty((len(tensors), rank), dtype=torch.float32)
    options = {"ALIGNED": aligned, "RANK": rank, "ELEMENTS": elements, "STEP": step, "num_warps": FLAT_WARPS}
    grid = (blocks.shape[0],)
    flat_partial_kernel[grid](pointers, table, blocks, partial, **options)
    flat_reduce_kernel[(len(tensors),)](partial, bounds, coefficients, ONE_SIDED=one_sided, RANK=rank, num_warps=1)
    flat_subtract_kernel[grid](pointers, table, blocks, coefficients, **options)


def _shapes(tensors: Sequence[Tensor], bases: Sequence[Tensor]) -> tuple[tuple[int, int, int, int], ...]:
    """(rows, dimension, rank, dtype code) of every tensor."""
    return tuple(
        (tensor.numel() // basis.shape[0], *basis.shape, _DTYPE_CODES[tensor.dtype])
        for tensor, basis in zip(tensors, bases, strict=True)
    )


@lru_cache(maxsize=64)
def _tables(
    shapes: tuple[tuple[int, int, int, int], ...], step: int, by_rows: bool, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """[tensors, 4] shapes, [blocks, 2] (tensor, block of it), [tensors + 1] first block of each tensor.

    Kept from step to step: only the pointers of a model's tensors change.
    """
    counts = [triton.cdiv(rows if by_rows else dimension, step) for rows, dimension, _, _ in shapes]
    blocks = [(index, block) for index, count in enumerate(counts) for block in range(count)]
    bounds = [sum(counts[:index]) for index in range(len(counts) + 1)]
    return tuple(torch.tensor(table, dtype=torch.int64, device=device) for table in (shapes, blocks, bounds))


def _aligned(tensors: Sequence[Tensor], shapes: Sequence[tuple[int, int, int, int]]) -> bool:
    """Whether all tensors' rows begin at multiples of 16 bytes, so that 128-bit accesses are allowed."""
    return all(shape[1] % 16 == 0 for shape in shapes) and all(tensor.data_ptr() % 16 == 0 for tensor in tensors)


def _padded_rank(shapes: Sequence[tuple[int, int, int, int]]) -> int:
    largest = max(rank for _, _, rank, _ in shapes)
    return next(pad for pad in RANK_PADS if pad >= largest)
