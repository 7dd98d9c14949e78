"""Triton kernels of the Fisher operations and their launches."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from safe_kernels._backend import interpreting
from safe_kernels._triton import dot_precision, pointer_table, widen_for_dot

TILE = 128
"""Rows and columns of the Fisher diagonal that a program owns: two float32 accumulators, 128 registers a thread."""

FISHER_WARPS = 8
"""With 4 warps the two accumulators spill."""

TOKENS = 32
GROUP = 8

ELEMENTS = 4096
"""Elements a program of the multi-tensor kernels handles."""

ELEMENTWISE_WARPS = 8
_INTERPRETER_TILE = 16
_INTERPRETER_ELEMENTS = 64
_DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


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


def fisher_diagonal_(out: Tensor, inputs: Tensor, grad_outputs: Tensor) -> None:
    """Add the squared per-sample weight gradients to `out`."""
    samples, tokens, din = inputs.shape
    dout = grad_outputs.shape[2]
    if inputs.numel() == 0 or dout == 0:
        return
    one_token = tokens == 1
    if one_token:
        samples, tokens = 1, samples
    target = out.contiguous()
    tile = _INTERPRETER_TILE if interpreting() else TILE
    half = inputs.dtype != torch.float32 and not one_token
    fisher_diagonal_kernel[(triton.cdiv(dout, tile) * triton.cdiv(din, tile),)](
        target,
        inputs.contiguous(),
        grad_outputs.contiguous(),
        samples,
        tokens,
        din,
        dout,
        ONE_TOKEN=one_token,
        WIDEN=widen_for_dot(),
        PRECISION="ieee" if half else dot_precision(),
        TILE=tile,
        TOKENS=_INTERPRETER_TILE if interpreting() else TOKENS,
        GROUP=GROUP,
        num_warps=FISHER_WARPS,
    )
    if target is not out:
        out.copy_(target)


def squared_gradient_ema_(fishers: Sequence[Tensor], grads: Sequence[Tensor], decay: float) -> None:
    """Move every Fisher estimate towards its squared gradient, one launch for each dtype of gradients."""
    contiguous = [fisher.contiguous() for fisher in fishers]
    dense = [grad.contiguous() for grad in grads]
    for indices in _grouped([(grad.dtype,) for grad in dense], fishers):
        columns = [[contiguous[i] for i in indices], [dense[i] for i in indices]]
        aligned, elements, blocks, sizes = _launch_plan(columns)
        squared_gradient_ema_kernel[(blocks.shape[0],)](
            pointer_table(columns, fishers[0].device),
            sizes,
            blocks,
            decay,
            GRAD=_DTYPES[columns[1][0].dtype],
            ALIGNED=aligned,
            ELEMENTS=elements,
            num_warps=ELEMENTWISE_WARPS,
        )
    _copy_back(fishers, contiguous)


def ewc_penalty_(
    grads: Sequence[Tensor],
    params: Sequence[Tensor],
    anchors: Sequence[Tensor],
    fishers: Sequence[Tensor],
    weight: float,
) -> Tensor:
    """Value of the penalty; its gradient is added to `grads`, one launch for each pair of dtypes."""
    value = fishers[0].new_zeros((), dtype=torch.float32)
    contiguous = [grad.contiguous() for grad in grads]
    dense = [[tensor.contiguous() for tensor in tensors] for tensors in (params, anchors, fishers)]
    for indices in _grouped([(p.dtype, a.dtype) for p, a in zip(params, anchors, strict=True)], fishers):
        columns = [[tensors[i] for i in indices] for tensors in (contiguous, *dense)]
        aligned, elements, blocks, sizes = _launch_plan(columns)
        partial = value.new_empty(blocks.shape[0])
        ewc_kernel[(blocks.shape[0],)](
            pointer_table(columns, value.device),
            sizes,
            blocks,
            partial,
            weight,
            PARAM=_DTYPES[columns[1][0].dtype],
            ANCHOR=_DTYPES[columns[2][0].dtype],
            ALIGNED=aligned,
            ELEMENTS=elements,
            num_warps=ELEMENTWISE_WARPS,
        )
        value += partial.sum()
    _copy_back(grads, contiguous)
    return value.mul_(0.5 * weight)


def _grouped(keys: Sequence[tuple[torch.dtype, ...]], tensors: Sequence[Tensor]) -> list[list[int]]:
    """Indices of the tensors that are not empty, by key."""
    groups: dict[tuple[torch.dtype, ...], list[int]] = {}
    for index, key in enumerate(keys):
        if tensors[index].numel():
            groups.setdefault(key, []).append(index)
    return list(groups.values())


def _launch_plan(columns: Sequence[Sequence[Tensor]]) -> tuple[bool, int, Tensor, Tensor]:
    """Whether all allow 128-bit accesses, elements a program, [blocks, 2] (tensor, block of it), [tensors] sizes."""
    sizes = tuple(tensor.numel() for tensor in columns[0])
    elements = _INTERPRETER_ELEMENTS if interpreting() else ELEMENTS
    aligned = all(size % 16 == 0 for size in sizes) and all(
        tensor.data_ptr() % 16 == 0 for column in columns for tensor in column
    )
    return aligned, elements, *_block_tables(sizes, elements, columns[0][0].device)


@lru_cache(maxsize=64)
def _block_tables(sizes: tuple[int, ...], elements: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Kept from step to step: only the pointers of a model's tensors change."""
    blocks = [(index, block) for index, size in enumerate(sizes) for block in range(triton.cdiv(size, elements))]
    return torch.tensor(blocks, device=device), torch.tensor(sizes, device=device)


def _copy_back(targets: Sequence[Tensor], results: Sequence[Tensor]) -> None:
    for target, result in zip(targets, results, strict=True):
        if result is not target:
            target.copy_(result)
