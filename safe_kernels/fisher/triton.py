"""Launches of the Triton kernels of the Fisher operations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import triton.language as tl
from torch import Tensor

from safe_kernels._backend import interpreting
from safe_kernels._triton import cdiv, launch, pointer_table
from safe_kernels.fisher._kernels import ewc_kernel, squared_gradient_ema_kernel
from safe_kernels.fisher.diagonal_triton import fisher_diagonal_ as fisher_diagonal_

ELEMENTS = 4096
"""Elements a program of the multi-tensor kernels handles."""

ELEMENTWISE_WARPS = 8
_INTERPRETER_ELEMENTS = 64
_DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


def squared_gradient_ema_(fishers: Sequence[Tensor], grads: Sequence[Tensor], decay: float) -> None:
    """Move every Fisher estimate towards its squared gradient, one launch for each dtype of gradients."""
    contiguous = [fisher.contiguous() for fisher in fishers]
    dense = [grad.contiguous() for grad in grads]
    for indices in _grouped([(grad.dtype,) for grad in dense], fishers):
        columns = [[contiguous[i] for i in indices], [dense[i] for i in indices]]
        aligned, elements, blocks, sizes = _launch_plan(columns)
        launch(
            squared_gradient_ema_kernel,
            blocks.shape[0],
            pointer_table(columns, fishers[0].device),
            sizes,
            blocks,
            decay,
            GRAD=_DTYPES[columns[1][0].dtype],
            ALIGNED=aligned,
            ELEMENTS=elements,
            device=fishers[0].device,
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
        launch(
            ewc_kernel,
            blocks.shape[0],
            pointer_table(columns, value.device),
            sizes,
            blocks,
            partial,
            weight,
            PARAM=_DTYPES[columns[1][0].dtype],
            ANCHOR=_DTYPES[columns[2][0].dtype],
            ALIGNED=aligned,
            ELEMENTS=elements,
            device=value.device,
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
    blocks = [(index, block) for index, size in enumerate(sizes) for block in range(cdiv(size, elements))]
    return torch.tensor(blocks, device=device), torch.tensor(sizes, device=device)


def _copy_back(targets: Sequence[Tensor], results: Sequence[Tensor]) -> None:
    for target, result in zip(targets, results, strict=True):
        if result is not target:
            target.copy_(result)
