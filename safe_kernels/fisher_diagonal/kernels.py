"""Triton kernels of the Fisher diagonal."""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false, reportAttributeAccessIssue=false
# Kernels are a language of their own in Python's syntax: a call returns what its body computes, which Python's types
# cannot say.

from __future__ import annotations

import triton
import triton.language as tl

ALL_PRODUCTS: tl.constexpr = tl.constexpr(6)
X_PARTS: tl.constexpr = tl.constexpr(0b00_01_00_01_10_00)
"""Which part of x each product of parts takes, two bits each, the first product lowest: 0, 2, 1, 0, 1, 0.

The smallest products come first: matrix units cut off what does not fit a sum, and what they cut off is then small too.
"""

Y_PARTS: tl.constexpr = tl.constexpr(0b00_00_01_01_00_10)
"""The same for y: 2, 0, 1, 1, 0, 0."""


@triton.jit(do_not_specialize=["samples", "samples_a_split", "tokens"])
def fisher_diagonal_kernel(
    out_ptr: tl.tensor,
    x_source: tl.tensor,
    y_source: tl.tensor,
    samples: tl.tensor,
    samples_a_split: tl.tensor,
    tokens: tl.tensor,
    x_size: tl.tensor,
    y_size: tl.tensor,
    x_stride: tl.tensor,
    y_stride: tl.tensor,
    TENSOR_COPIES: tl.constexpr,
    SQUARE: tl.constexpr,
    PRODUCTS: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    SPLIT: tl.constexpr,
    WIDEN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TOKENS: tl.constexpr,
    ONE_BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """A tile of `sum_n (sum_t x y^T)^2`, samples and tokens in a fixed order, no atomics.

    x and y are [parts * samples, tokens, stride], with strides that are multiples of 16 elements. One loop runs over
    the blocks of tokens of all samples, so that the copies of the next sample are under way while one ends.

    TENSOR_COPIES: x and y are tensor descriptors, whose blocks the copy engine of Hopper and later brings; else
        pointers.
    SQUARE: at the end of a sample its product is squared and added; else it is added as it is.
    PRODUCTS: 1, or 6 where float32 operands are given as three bfloat16 parts each; fewer are the largest of them.
    TRANSPOSED: out is [y, x] instead of [x, y].
    ONE_BLOCK: a sample is one block of tokens and one product: each round ends a sample, and no branch stands between
        the rounds.
    SPLIT: programs share the samples, and each stores what it has found to its own slice of out; else it is added.
    """
    row_tiles = tl.cdiv(x_size, ROWS)
    column_tiles = tl.cdiv(y_size, COLUMNS)
    split = tl.program_id(0) // (row_tiles * column_tiles)
    # Programs in groups of GROUP rows of tiles, so that those that run together share operands in the L2 cache.
    program = tl.program_id(0) % (row_tiles * column_tiles)
    group = program // (GROUP * column_tiles)
    group_rows = tl.minimum(row_tiles - group * GROUP, GROUP)
    within = program % (GROUP * column_tiles)
    first_row = (group * GROUP + within % group_rows) * ROWS
    first_column = (within // group_rows) * COLUMNS
    steps = tl.arange(0, TOKENS)
    if not TENSOR_COPIES:
        # x is read as [rows, tokens]: tl.trans of a [tokens, rows] tile would keep compute capability 8 from copying
        # asynchronously.
        x_offsets = steps[None, :] * x_stride + _inside_row(first_row, x_stride, ROWS)[:, None]
        y_offsets = steps[:, None] * y_stride + _inside_row(first_column, y_stride, COLUMNS)[None, :]
    blocks = tl.cdiv(tokens, TOKENS)
    sample = split * samples_a_split
    mine = tl.minimum(samples - sample, samples_a_split)
    start = 0
    term = ALL_PRODUCTS - PRODUCTS
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    product = tl.zeros([ROWS, COLUMNS], tl.float32)
    for _ in tl.range(0, mine * blocks * PRODUCTS, num_stages=STAGES):
        x_sample, y_sample = sample, sample
        if PRODUCTS > 1:
            x_sample += ((X_PARTS >> (2 * term)) & 3) * samples
            y_sample += ((Y_PARTS >> (2 * term)) & 3) * samples
        if TENSOR_COPIES:
            x = tl.trans(x_source.load([x_sample, start, first_row]).reshape(TOKENS, ROWS))
            y = y_source.load([y_sample, start, first_column]).reshape(TOKENS, COLUMNS)
        else:
            x_row = x_source + (tl.cast(x_sample, tl.int64) * tokens + start) * x_stride
            y_row = y_source + (tl.cast(y_sample, tl.int64) * tokens + start) * y_stride
            x = tl.load(x_row + x_offsets, mask=(steps < tokens - start)[None, :], other=0.0)
            y = tl.load(y_row + y_offsets, mask=(steps < tokens - start)[:, None], other=0.0)
        if WIDEN:
            x, y = x.to(tl.float32), y.to(tl.float32)
        if ONE_BLOCK:
            product = tl.dot(x, y, input_precision="ieee")
            total += product * product if SQUARE else product
            sample += 1
        else:
            product = tl.dot(x, y, acc=product, input_precision="ieee")
            start += TOKENS
            ends = start >= tokens
            start = tl.where(ends, 0, start)
            if PRODUCTS > 1:
                term += ends.to(tl.int32)
                ends = term == ALL_PRODUCTS
                term = tl.where(ends, ALL_PRODUCTS - PRODUCTS, term)
            sample = tl.where(ends, sample + 1, sample)  # not in the branch, on which the next copies would depend
            if ends:
                total += product * product if SQUARE else product
                product = tl.zeros([ROWS, COLUMNS], tl.float32)
    out_ptr += tl.cast(split, tl.int64) * x_size * y_size
    if COLUMNS == 128:
        # By halves: a whole tile of addresses and old values beside the sums does not fit the registers.
        HALF: tl.constexpr = COLUMNS // 2
        left_half, right_half = tl.split(tl.permute(tl.reshape(total, (ROWS, 2, HALF)), (0, 2, 1)))
        _put(out_ptr, left_half, first_row, first_column, x_size, y_size, TRANSPOSED, SPLIT)
        _put(out_ptr, right_half, first_row, first_column + HALF, x_size, y_size, TRANSPOSED, SPLIT)
    else:
        _put(out_ptr, total, first_row, first_column, x_size, y_size, TRANSPOSED, SPLIT)


@triton.jit
def _inside_row(first: tl.tensor, stride: tl.tensor, SIZE: tl.constexpr) -> tl.tensor:
    """Offsets of a tile's elements in a row; groups of 16 that are past the row's end are replaced by its first group.

    What is computed from a replacement is never stored, and loads need no mask for it.
    """
    offsets = first + tl.arange(0, SIZE)
    offsets = tl.where(offsets < stride, offsets, tl.arange(0, SIZE) % 16)
    return tl.max_contiguous(tl.multiple_of(offsets, 16), 16)


@triton.jit
def _put(
    out_ptr: tl.tensor,
    values: tl.tensor,
    first_row: tl.tensor,
    first_column: tl.tensor,
    x_size: tl.tensor,
    y_size: tl.tensor,
    TRANSPOSED: tl.constexpr,
    SPLIT: tl.constexpr,
) -> None:
    """Store a tile, or add it to what is there."""
    rows = first_row + tl.arange(0, values.shape[0])
    columns = first_column + tl.arange(0, values.shape[1])
    inside = (rows < x_size)[:, None] & (columns < y_size)[None, :]
    if TRANSPOSED:
        target = out_ptr + rows[:, None] + (columns.to(tl.int64) * x_size)[None, :]
    else:
        target = out_ptr + (rows.to(tl.int64) * y_size)[:, None] + columns[None, :]
    if not SPLIT:
        values += tl.load(target, mask=inside, other=0.0)
    tl.store(target, values, mask=inside)


@triton.jit(do_not_specialize=["rows", "operand_rows"])
def operand_kernel(
    operand_ptr: tl.tensor,
    source_ptr: tl.tensor,
    rows: tl.tensor,
    operand_rows: tl.tensor,
    size: tl.tensor,
    stride: tl.tensor,
    SQUARE: tl.constexpr,
    PARTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """[rows, size] to [PARTS, operand_rows, stride], with zeros where there is no element; squared if asked.

    Three parts: bfloat16 numbers whose sum is the float32 number, up to the last of its 24 bits.
    """
    column_tiles = tl.cdiv(stride, COLUMNS)
    row = tl.program_id(0) // column_tiles * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) % column_tiles * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row < rows)[:, None] & (column < size)[None, :]
    values = tl.load(source_ptr + (row.to(tl.int64) * size)[:, None] + column[None, :], mask=inside, other=0.0)
    target = operand_ptr + (row.to(tl.int64) * stride)[:, None] + column[None, :]
    exists = (row < operand_rows)[:, None] & (column < stride)[None, :]
    if PARTS == 1:
        tl.store(target, values, mask=exists)
    else:
        values = values.to(tl.float32)
        if SQUARE:
            values *= values
        for part in tl.static_range(PARTS):
            rounded = values.to(tl.bfloat16)
            tl.store(target + tl.cast(part, tl.int64) * operand_rows * stride, rounded, mask=exists)
            values -= rounded.to(tl.float32)


@triton.jit
def add_splits_kernel(
    out_ptr: tl.tensor,
    splits_ptr: tl.tensor,
    splits: tl.tensor,
    size: tl.tensor,
    SPLITS: tl.constexpr,
    ELEMENTS: tl.constexpr,
) -> None:
    """Add the sum of [splits, size] over splits to out, in a fixed order."""
    offsets = tl.cast(tl.program_id(0), tl.int64) * ELEMENTS + tl.arange(0, ELEMENTS)
    total = tl.zeros([ELEMENTS], tl.float32)
    for first in range(0, splits, SPLITS):
        split = first + tl.arange(0, SPLITS)
        inside = (split < splits)[:, None] & (offsets < size)[None, :]
        found = tl.load(splits_ptr + (split.to(tl.int64) * size)[:, None] + offsets[None, :], mask=inside, other=0.0)
        total += tl.sum(found, 0)
    inside = offsets < size
    tl.store(out_ptr + offsets, tl.load(out_ptr + offsets, mask=inside, other=0.0) + total, mask=inside)
