"""Launches of the Triton kernels of the null-space projection: many tensors in one launch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from safe_kernels._backend import interpreting
from safe_kernels._triton import cdiv, dot_precision, launch, pointer_table
from safe_kernels.null_space import fallback
from safe_kernels.null_space._kernels import (
    flat_partial_kernel,
    flat_reduce_kernel,
    flat_subtract_kernel,
    row_projection_kernel,
)

MAXIMUM_RANK = 64
"""Coefficients of a row block are held in registers; a larger basis is projected by matrix products."""

RANK_PADS = (16, 32, 64)
"""Ranks are padded to these: `tl.dot` needs an inner dimension of 16 at least."""

ROWS = 16
"""Rows a program owns. Few, so that the second read of a row block still finds it in the L2 cache."""

COLUMNS = {16: 64, 32: 64, 64: 32}
"""Columns a program holds at a time, by padded rank: with more the operands of three-term products spill."""

ROW_WARPS = 4
FLAT_ELEMENTS = 2048
FLAT_STEP = 128
FLAT_WARPS = 4

_INTERPRETER_COLUMNS = 16
_INTERPRETER_ELEMENTS = 64
_DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


def project_null_space_(tensors: Sequence[Tensor], bases: Sequence[Tensor], one_sided: bool) -> None:
    """Project every tensor, in place: one launch for the row forms, three for the flat forms."""
    chosen = [i for i, (x, u) in enumerate(zip(tensors, bases, strict=True)) if x.numel() and u.shape[1]]
    wide = [i for i in chosen if bases[i].shape[1] > MAXIMUM_RANK]
    fallback.project_null_space_([tensors[i] for i in wide], [bases[i] for i in wide], one_sided)
    narrow = [i for i in chosen if bases[i].shape[1] <= MAXIMUM_RANK]
    flat = [i for i in narrow if tensors[i].numel() == bases[i].shape[0]]
    rows = [i for i in narrow if tensors[i].numel() != bases[i].shape[0]]
    for indices, project in ((rows, _project_rows), (flat, _project_flat)):
        if indices:
            packed = [tensors[i].contiguous() for i in indices]
            project(packed, [bases[i].contiguous() for i in indices], one_sided)
            for i, result in zip(indices, packed, strict=True):
                if result is not tensors[i]:
                    tensors[i].copy_(result)


def _project_rows(tensors: Sequence[Tensor], bases: Sequence[Tensor], one_sided: bool) -> None:
    shapes = _shapes(tensors, bases)
    table, blocks, _ = _tables(shapes, ROWS, True, tensors[0].device)
    rank = _padded_rank(shapes)
    launch(
        row_projection_kernel,
        blocks.shape[0],
        pointer_table((tensors, bases), tensors[0].device),
        table,
        blocks,
        ONE_SIDED=one_sided,
        ALIGNED=_aligned(tensors, shapes),
        RANK_ALIGNED=_rank_aligned(bases),
        PRECISION=dot_precision(),
        RANK=rank,
        ROWS=ROWS,
        COLUMNS=_INTERPRETER_COLUMNS if interpreting() else COLUMNS[rank],
        device=tensors[0].device,
        num_warps=ROW_WARPS,
    )


def _project_flat(tensors: Sequence[Tensor], bases: Sequence[Tensor], one_sided: bool) -> None:
    shapes = _shapes(tensors, bases)
    elements, step = (_INTERPRETER_ELEMENTS, 16) if interpreting() else (FLAT_ELEMENTS, FLAT_STEP)
    table, blocks, bounds = _tables(shapes, elements, False, tensors[0].device)
    pointers = pointer_table((tensors, bases), tensors[0].device)
    rank = _padded_rank(shapes)
    partial = tensors[0].new_empty((blocks.shape[0], rank), dtype=torch.float32)
    coefficients = tensors[0].new_empty((len(tensors), rank), dtype=torch.float32)
    options: dict[str, Any] = {
        "ALIGNED": _aligned(tensors, shapes),
        "RANK_ALIGNED": _rank_aligned(bases),
        "RANK": rank,
        "ELEMENTS": elements,
        "STEP": step,
        "device": tensors[0].device,
        "num_warps": FLAT_WARPS,
    }
    grid = blocks.shape[0]
    launch(flat_partial_kernel, grid, pointers, table, blocks, partial, **options)
    launch(
        flat_reduce_kernel,
        len(tensors),
        partial,
        bounds,
        coefficients,
        ONE_SIDED=one_sided,
        RANK=rank,
        device=tensors[0].device,
        num_warps=1,
    )
    launch(flat_subtract_kernel, grid, pointers, table, blocks, coefficients, **options)


def _shapes(tensors: Sequence[Tensor], bases: Sequence[Tensor]) -> tuple[tuple[int, int, int, int], ...]:
    """(rows, dimension, rank, dtype code) of every tensor."""
    return tuple(
        (tensor.numel() // basis.shape[0], basis.shape[0], basis.shape[1], _DTYPE_CODES[tensor.dtype])
        for tensor, basis in zip(tensors, bases, strict=True)
    )


@lru_cache(maxsize=64)
def _tables(
    shapes: tuple[tuple[int, int, int, int], ...], step: int, by_rows: bool, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """[tensors, 4] shapes, [blocks, 2] (tensor, block of it), [tensors + 1] first block of each tensor.

    Kept from step to step: only the pointers of a model's tensors change.
    """
    counts = [cdiv(rows if by_rows else dimension, step) for rows, dimension, _, _ in shapes]
    blocks = [(index, block) for index, count in enumerate(counts) for block in range(count)]
    bounds = [sum(counts[:index]) for index in range(len(counts) + 1)]
    return (
        torch.tensor(shapes, dtype=torch.int64, device=device),
        torch.tensor(blocks, dtype=torch.int64, device=device),
        torch.tensor(bounds, dtype=torch.int64, device=device),
    )


def _aligned(tensors: Sequence[Tensor], shapes: Sequence[tuple[int, int, int, int]]) -> bool:
    """Whether all tensors' rows begin at multiples of 16 bytes, so that 128-bit accesses are allowed."""
    return all(shape[1] % 16 == 0 for shape in shapes) and all(tensor.data_ptr() % 16 == 0 for tensor in tensors)


def _rank_aligned(bases: Sequence[Tensor]) -> bool:
    """Whether all bases' rows begin at multiples of 16 bytes."""
    return all(basis.shape[1] % 8 == 0 and basis.data_ptr() % 16 == 0 for basis in bases)


def _padded_rank(shapes: Sequence[tuple[int, int, int, int]]) -> int:
    largest = max(rank for _, _, rank, _ in shapes)
    return next(pad for pad in RANK_PADS if pad >= largest)
