"""Launches of the kernels that go over many tensors element by element: the EWC penalty and the gradient average."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import triton.language as tl
from torch import Tensor

from safe_kernels import _triton
from safe_kernels._backend import interpreting
from safe_kernels._tables import AddressTable, addresses, aligned_rows, block_table, constant_table, dense, grouped
from safe_kernels._triton import cdiv
from safe_kernels.fisher import fallback
from safe_kernels.fisher._kernels import ewc_kernel, squared_gradient_ema_kernel
from safe_kernels.fisher.diagonal_triton import fisher_diagonal_ as fisher_diagonal_

ELEMENTS = 4096
"""Elements a program handles: of each tensor 16 a thread, in accesses of 16 bytes."""

WARPS = 8
_INTERPRETER_ELEMENTS = 64
Value = TypeVar("Value")
_DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@dataclass(frozen=True)
class Group:
    """Rows that one launch handles.

    Attributes:
        dtypes: of the tensors of a row.
        aligned: whether all addresses allow accesses of 16 bytes.
        blocks: row and block of each program, [programs, 2].
        first: programs of the groups before.
        elements: of a block.
    """

    dtypes: tuple[torch.dtype, ...]
    aligned: bool
    blocks: Tensor
    first: int
    elements: int

    def launch(self, kernel: Any, **dtypes: torch.dtype) -> _triton.PreparedLaunch:
        """The kernel for these rows, whose constants are dtypes, alignment and size of a block."""
        return _triton.PreparedLaunch(
            kernel,
            len(self.blocks),
            **{name: _DTYPES[dtype] for name, dtype in dtypes.items()},
            ALIGNED=self.aligned,
            ELEMENTS=self.elements,
            device=self.blocks.device,
            num_warps=WARPS,
        )


class Rows:
    """Rows of tensors of equal size: their tables on the device, and the groups that are launched apart.

    Rows with an address that does not allow wide accesses are a group of their own, so that the others keep theirs.

    Args:
        columns: the tensors of each kind.
        device: of all.
        launch_of: prepares the launch of a group.
    """

    def __init__(
        self,
        columns: Sequence[Sequence[Tensor]],
        device: torch.device,
        launch_of: Callable[[Group], _triton.PreparedLaunch],
    ) -> None:
        sizes = tuple(tensor.numel() for tensor in columns[0])
        self.elements = _INTERPRETER_ELEMENTS if interpreting() else ELEMENTS
        self.sizes = constant_table(sizes, device)
        self.groups: list[tuple[Group, _triton.PreparedLaunch]] = []
        self.programs = 0
        self._launch_of = launch_of
        self._dtypes = list(zip(*([tensor.dtype for tensor in column] for column in columns), strict=True))
        self._counts = [cdiv(size, self.elements) for size in sizes]
        self._aligned: list[bool] = []
        self._table = AddressTable(len(sizes), len(columns), device)

    @property
    def addresses(self) -> Tensor:
        """[rows, columns] on the device."""
        return self._table.device_table

    def refresh(self, columns: Sequence[list[int]]) -> None:
        """Bring tables and groups up to these addresses."""
        if not self._table.refresh(columns):
            return
        aligned = aligned_rows(columns)
        if aligned == self._aligned:
            return
        self._aligned, self.groups, self.programs = aligned, [], 0
        for (dtypes, wide), rows in grouped(zip(self._dtypes, aligned, strict=True)).items():
            blocks = block_table(tuple(self._counts[row] for row in rows), tuple(rows), self.sizes.device)
            group = Group(dtypes, wide, blocks, self.programs, self.elements)
            self.groups.append((group, self._launch_of(group)))
            self.programs += len(blocks)


class EwcLaunch:
    """The penalty of rows (gradient, parameter, anchor, Fisher), prepared for gradients of given dtypes and strides.

    Args:
        grads: where the penalty's gradient is added; a call may bring others of the same dtypes and strides.
        params: parameters.
        anchors: of the same shapes; these and the Fishers stay where they are.
        fishers: float32.
    """

    def __init__(
        self, grads: Sequence[Tensor], params: Sequence[Tensor], anchors: Sequence[Tensor], fishers: Sequence[Tensor]
    ) -> None:
        self._split = _Split((grads, params, anchors, fishers))
        self._params, self._anchors, self._fishers = params, anchors, fishers
        self._anchor_places, self._fisher_places = (addresses(self._split.kept(fixed)) for fixed in (anchors, fishers))
        columns = [self._split.kept(tensors) for tensors in (grads, params, anchors, fishers)]
        self._rows = Rows(columns, fishers[0].device, _ewc_launch)

    def __call__(self, grads: Sequence[Tensor], places: list[int], weight: float) -> Tensor:
        """Add the penalty's gradient to `grads`, and return its value; `places` are the parameters' addresses."""
        rows, split = self._rows, self._split
        rows.refresh([addresses(split.kept(grads)), split.kept(places), self._anchor_places, self._fisher_places])
        partial = torch.empty(rows.programs, dtype=torch.float32, device=self._fishers[0].device)
        for group, launch in rows.groups:
            launch(rows.addresses, rows.sizes, group.blocks, partial[group.first :] if group.first else partial, weight)
        value = partial.sum()
        if split.rest:
            left = split.left
            value += fallback.ewc_penalty_(
                left(grads), left(self._params), left(self._anchors), left(self._fishers), weight
            )
        return value


def _ewc_launch(group: Group) -> _triton.PreparedLaunch:
    grad, param, anchor, _ = group.dtypes
    return group.launch(ewc_kernel, GRAD=grad, PARAM=param, ANCHOR=anchor)


class AverageLaunch:
    """The squared-gradient average of rows (Fisher, gradient), prepared for gradients of given dtypes and strides.

    Args:
        fishers: float32; they stay where they are.
        grads: of the same shapes; a call may bring others of the same dtypes and strides.
    """

    def __init__(self, fishers: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        self._split = _Split((fishers, grads))
        self._fishers = fishers
        self._fixed = addresses(self._split.kept(fishers))
        columns = [self._split.kept(tensors) for tensors in (fishers, grads)]
        self._rows = Rows(columns, fishers[0].device, _average_launch)

    def __call__(self, grads: Sequence[Tensor], decay: float) -> None:
        """Move the Fishers towards the squared gradients."""
        rows, split = self._rows, self._split
        rows.refresh([self._fixed, addresses(split.kept(grads))])
        for group, launch in rows.groups:
            # 1 - decay in float64; in float32 it would be off by 2e-4 of itself for a decay of 0.9999
            launch(rows.addresses, rows.sizes, group.blocks, decay, 1.0 - decay)
        if split.rest:
            fallback.squared_gradient_ema_(split.left(self._fishers), split.left(grads), decay)


def _average_launch(group: Group) -> _triton.PreparedLaunch:
    return group.launch(squared_gradient_ema_kernel, GRAD=group.dtypes[1])


class _Split:
    """Which rows the kernels take: those whose tensors lie in memory in one order, without gaps.

    Others, such as a transposed gradient of a plain parameter, go through PyTorch's operations; empty ones nowhere.
    """

    def __init__(self, columns: Sequence[Sequence[Tensor]]) -> None:
        rows = list(zip(*columns, strict=True))
        filled = [index for index, row in enumerate(rows) if row[0].numel()]
        self._kept = [index for index in filled if _in_one_order(rows[index])]
        self._all = len(self._kept) == len(rows)
        self.rest = sorted(set(filled) - set(self._kept))

    def kept(self, values: Sequence[Value]) -> list[Value]:
        """Those of a column that the kernels take."""
        if self._all:
            return values if isinstance(values, list) else list(values)
        return [values[index] for index in self._kept]

    def left(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Those of a column that they do not."""
        return [tensors[index] for index in self.rest]


def _in_one_order(row: Sequence[Tensor]) -> bool:
    if all(tensor.is_contiguous() for tensor in row):
        return True
    return dense(row[0]) and all(tensor.stride() == row[0].stride() for tensor in row)
