"""Tables in device memory from which one launch finds many tensors: their addresses, and which program does what.

A prepared plan makes them once. At every call it compares the tensors' addresses with those of the call before, which
takes the host some microseconds, and copies them to the device only where one has changed.
"""

from __future__ import annotations

import operator
import weakref
from array import array
from collections.abc import Hashable, Iterable, Sequence
from functools import lru_cache, reduce
from itertools import chain, pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor

Key = TypeVar("Key", bound=Hashable)

_ALIGNMENT = 16
"""Bytes of the widest access of a thread; allocations begin at multiples of 256, views need not."""

_NBYTES = operator.attrgetter("nbytes")

_CAPTURING = (
    "expected tensors at the addresses of the call before, since a CUDA graph is being captured, and a replay would "
    "copy addresses from memory that is used for something else by then; call the plan once before capture, and keep "
    "its tensors and gradients in place (zero_grad(set_to_none=False))"
)


class GraphCaptureError(RuntimeError):
    """Addresses would have to be copied to the device, which a CUDA graph could not repeat or does not expect."""


def addresses(tensors: Iterable[Tensor]) -> list[int]:
    """Addresses of the first elements. By `map`: this runs for every tensor at every call."""
    return list(map(Tensor.data_ptr, tensors))


class AddressTable:
    """Addresses of tensors, `[rows, columns]` int64 on the device; brought up to date only where one has changed.

    A row holds the tensors that are used together, a column those of one kind. The table keeps its place in memory, so
    that a captured CUDA graph finds it. During capture a refresh is refused, since the graph would repeat the copy from
    host memory that has gone to another use by then; after capture too, since the graph reads this table.

    Attributes:
        device_table: [rows, columns].
    """

    def __init__(self, rows: int, columns: int, device: torch.device) -> None:
        self.device_table = torch.zeros((rows, columns), dtype=torch.int64, device=device)
        device = self.device_table.device  # with its number
        self._known: list[list[int]] = [[] for _ in range(columns)]
        self._stream_number = _stream_number(device)
        self._stream = _current_stream(device)
        self._captured = False

    def refresh(self, columns: Sequence[list[int]]) -> bool:
        """Bring the table up to the addresses of these columns; no synchronization with the host.

        Args:
            columns: for each column its rows' addresses. A list that is kept from call to call costs nothing.

        Returns:
            Whether an address has changed.

        Raises:
            GraphCaptureError: one has changed, and a CUDA graph is being captured, or has captured this table.
            ValueError: a tensor has no memory, as those of the meta device.
        """
        device = self.device_table.device
        capturing = _capturing(device)
        if not capturing:
            self._follow_stream(device)
        if all(map(operator.eq, columns, self._known)):
            self._captured |= capturing
            return False
        if capturing:
            raise GraphCaptureError(_CAPTURING)
        if self._captured:
            raise GraphCaptureError(
                "expected tensors at the addresses of the call that a CUDA graph has captured, since a replay finds "
                "them by this plan; keep them in place, or make another plan for calls outside of the graph"
            )
        self._copy(columns)
        self._known = [list(column) for column in columns]
        return True

    def _copy(self, columns: Sequence[list[int]]) -> None:
        for number, column in enumerate(columns):
            if 0 in column:
                raise ValueError(
                    f"column {number}, row {column.index(0)}: expected memory of its own, got a tensor without "
                    "(meta, fake or distributed); pass the local tensor"
                )
        rows = _as_tensor(chain.from_iterable(columns)).view(len(columns), -1).t()
        on_gpu = self.device_table.device.type == "cuda"
        # Fresh memory each time: PyTorch's allocator gives it out again only when the copy has been done.
        staging = torch.empty(rows.shape, dtype=torch.int64, pin_memory=on_gpu)
        self.device_table.copy_(staging.copy_(rows), non_blocking=on_gpu)

    def _follow_stream(self, device: torch.device) -> None:
        """Wait, on the device, for the stream of the last use where the current one is another.

        Not during capture, where waiting for a stream outside the graph is an error: `torch.cuda.graph` has waited.
        """
        number = _stream_number(device)
        if number == self._stream_number:
            return
        current = _current_stream(device)
        if current is not None and self._stream is not None:
            current.wait_stream(self._stream)
        self._stream_number, self._stream = number, current


class Identities:
    """Tells whether tensors are the objects of the last look, without keeping them alive.

    Another tensor may have come to the same address, with another dtype or other strides: gradients are made anew at
    every step.
    """

    def __init__(self) -> None:
        self._seen: list[weakref.ref[Tensor]] = []
        self._died = False

    def same(self, tensors: Sequence[Tensor | None]) -> bool:
        """Whether these are the tensors remembered, each in its place."""
        if self._died or len(tensors) != len(self._seen):
            return False
        return all(map(operator.is_, [reference() for reference in self._seen], tensors))

    def remember(self, tensors: Sequence[Tensor]) -> None:
        """Look at these tensors."""
        self._died = False
        self._seen = [weakref.ref(tensor, self._note_death) for tensor in tensors]

    def _note_death(self, reference: weakref.ref[Tensor]) -> None:
        # References of an earlier look may outlive it.
        self._died = True


def group_rows(keys: Iterable[Key]) -> dict[Key, list[int]]:
    """Rows of each key, in order: one launch handles a group."""
    found: dict[Key, list[int]] = {}
    for row, key in enumerate(keys):
        found.setdefault(key, []).append(row)
    return found


def aligned_rows(columns: Sequence[Sequence[int]]) -> list[bool]:
    """For each row, whether all its addresses allow accesses of 16 bytes."""
    return [reduce(operator.or_, row) % _ALIGNMENT == 0 for row in zip(*columns, strict=True)]


@lru_cache(maxsize=64)
def constant_table(values: tuple[Any, ...], device: torch.device) -> Tensor:
    """Integers, or rows of them, as int64 on the device. Made once: the copy waits for a GPU.

    Raises:
        GraphCaptureError: a CUDA graph is being captured, and the table is not there yet.
    """
    _refuse_capture(device)
    return torch.tensor(values, dtype=torch.int64, device=device)


@lru_cache(maxsize=64)
def block_table(counts: tuple[int, ...], rows: tuple[int, ...], device: torch.device) -> Tensor:
    """For each program its row and the block of it that it handles: [programs, 2] int32.

    Args:
        counts: blocks of each row.
        rows: numbers of the rows.
        device: where the table goes.

    Raises:
        GraphCaptureError: a CUDA graph is being captured, and the table is not there yet.
    """
    _refuse_capture(device)
    number = torch.tensor(counts, dtype=torch.int64)
    first = number.cumsum(0) - number
    row = torch.repeat_interleave(torch.tensor(rows, dtype=torch.int64), number)
    block = torch.arange(len(row)) - torch.repeat_interleave(first, number)
    return torch.stack([row, block], 1).to(torch.int32).to(device)


def refuse_overlaps(name: str, tensors: Sequence[Tensor]) -> None:
    """Raise unless no two tensors of a list share an element, which two programs would change at once.

    Views of one buffer that do not overlap are allowed, as flat optimizers and sharded models make them. Tensors of the
    meta device have no memory to share.

    Raises:
        ValueError: two tensors overlap, or one overlaps itself (an expanded one).
    """
    if not tensors or tensors[0].is_meta:
        return
    if all(map(Tensor.is_contiguous, tensors)):  # the usual case, in few operations: this may run at every step
        spans = sorted(zip(addresses(tensors), map(_NBYTES, tensors), strict=True))
        if all(start + size <= following for (start, size), (following, _) in pairwise(spans)):
            return
    filled = [(index, tensor) for index, tensor in enumerate(tensors) if tensor.numel()]
    starts = _as_tensor(addresses(tensor for _, tensor in filled))
    order = starts.argsort(stable=True)
    ends = (starts + _as_tensor(_extent(tensor) for _, tensor in filled))[order]
    apart = starts[order][1:] >= ends.cummax(0).values[:-1]
    # Chains of tensors whose ranges overlap; strided ones may still have no element in common.
    links: list[tuple[int, Tensor]] = []
    for position, new_chain in zip(order.tolist(), [True, *apart.tolist()], strict=False):
        if new_chain:
            _refuse_shared_elements(name, links)
            links = []
        links.append(filled[position])
    _refuse_shared_elements(name, links)


def _refuse_shared_elements(name: str, links: Sequence[tuple[int, Tensor]]) -> None:
    """Compare element by element: each tensor paints its part of the range in the color of its number."""
    if not links or (len(links) == 1 and dense(links[0][1])):
        return
    unit = min(tensor.element_size() for _, tensor in links)
    start = min(tensor.data_ptr() for _, tensor in links)
    length = max(tensor.data_ptr() + _extent(tensor) for _, tensor in links) - start
    places = torch.arange(length // unit)
    painted = torch.full_like(places, -1)
    for index, tensor in links:
        width = tensor.element_size() // unit
        strides = (*(stride * width for stride in tensor.stride()), 1)
        own = places.as_strided((*tensor.shape, width), strides, (tensor.data_ptr() - start) // unit).reshape(-1)
        other = int(painted[own].max())
        if other >= 0:
            first, second = sorted((other, index))
            raise ValueError(
                f"{name}[{second}]: expected memory of its own, got elements of {name}[{first}]; pass each tensor once"
            )
        painted[own] = index
        if int((painted == index).sum()) != own.numel():
            raise ValueError(
                f"{name}[{index}]: expected a place for each element, got shape {list(tensor.shape)} with strides "
                f"{list(tensor.stride())}; pass a copy"
            )


def dense(tensor: Tensor) -> bool:
    """Whether the elements fill their range of memory, each once, in whatever order."""
    if tensor.is_contiguous():
        return True
    step = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride != step:
                return False
            step *= size
    return True


def _extent(tensor: Tensor) -> int:
    """Bytes from the first element to the end of the last, of a tensor that is not empty."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()


def _as_tensor(numbers: Iterable[int]) -> Tensor:
    values = array("q", numbers)
    return torch.frombuffer(values, dtype=torch.int64) if values else torch.empty(0, dtype=torch.int64)


def _stream_number(device: torch.device) -> int:
    """The current stream's handle, which takes a tenth of the time that its object does: this runs at every call."""
    return torch._C._cuda_getCurrentRawStream(device.index) if device.type == "cuda" else 0


def _current_stream(device: torch.device) -> torch.cuda.Stream | None:
    return torch.cuda.current_stream(device) if device.type == "cuda" else None


def _refuse_capture(device: torch.device) -> None:
    """A copy that waits would break a capture, and with it PyTorch's random generator."""
    if _capturing(device):
        raise GraphCaptureError(_CAPTURING)


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()
