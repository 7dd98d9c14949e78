"""Launches of kernels that go over many tensors element by element: which rows they take, in which groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from safe_kernels._backend import interpreting
from safe_kernels._tables import AddressTable, aligned_rows, block_table, constant_table, dense, group_rows
from safe_kernels._triton import TRITON_DTYPES, PreparedLaunch, cdiv

ELEMENTS = 4096
"""Elements a program handles: of each tensor 16 a thread, in accesses of 16 bytes."""

WARPS = 8
_INTERPRETER_ELEMENTS = 64
Value = TypeVar("Value")


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

    def launch(self, kernel: Any, **dtypes: torch.dtype) -> PreparedLaunch:
        """The kernel for these rows, whose constants are dtypes, alignment and size of a block."""
        return PreparedLaunch(
            kernel,
            len(self.blocks),
            **{name: TRITON_DTYPES[dtype] for name, dtype in dtypes.items()},
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
        launch_of: Callable[[Group], PreparedLaunch],
    ) -> None:
        sizes = tuple(tensor.numel() for tensor in columns[0])
        self.elements = _INTERPRETER_ELEMENTS if interpreting() else ELEMENTS
        self.sizes = constant_table(sizes, device)
        self.groups: list[tuple[Group, PreparedLaunch]] = []
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
        for (dtypes, wide), rows in group_rows(zip(self._dtypes, aligned, strict=True)).items():
            blocks = block_table(tuple(self._counts[row] for row in rows), tuple(rows), self.sizes.device)
            group = Group(dtypes, wide, blocks, self.programs, self.elements)
            self.groups.append((group, self._launch_of(group)))
            self.programs += len(blocks)


class Split:
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
