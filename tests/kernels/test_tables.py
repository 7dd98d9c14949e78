"""Tables of addresses: when they are copied, what they refuse, and which tensors count as overlapping."""

from __future__ import annotations

import gc
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from safe_kernels import _tables
from safe_kernels._tables import (
    AddressTable,
    GraphCaptureError,
    Identities,
    addresses,
    aligned_rows,
    block_table,
    constant_table,
    dense,
    group_rows,
    refuse_overlaps,
)


def some(device: torch.device, count: int = 3) -> list[Tensor]:
    return [torch.zeros(5 + index, device=device) for index in range(count)]


def test_table_holds_the_addresses_row_by_row(device: torch.device) -> None:
    left, right = some(device), some(device)
    table = AddressTable(3, 2, device)
    assert table.refresh([addresses(left), addresses(right)])
    pairs = zip(left, right, strict=True)
    assert table.device_table.tolist() == [[a.data_ptr(), b.data_ptr()] for a, b in pairs]
    assert table.device_table.device == left[0].device


def test_table_is_copied_only_when_an_address_has_changed(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = some(device)
    table = AddressTable(3, 1, device)
    place = table.device_table.data_ptr()
    assert table.refresh([addresses(tensors)])
    copies: list[object] = []
    copy = AddressTable._copy
    monkeypatch.setattr(AddressTable, "_copy", lambda self, columns: (copies.append(columns), copy(self, columns)))
    assert not table.refresh([addresses(tensors)])
    assert not copies
    tensors[1] = torch.zeros(6, device=device)
    assert table.refresh([addresses(tensors)])
    assert len(copies) == 1
    assert table.device_table[:, 0].tolist() == addresses(tensors)
    assert table.device_table.data_ptr() == place  # a captured graph goes on reading it there


def test_table_keeps_its_own_list_of_what_it_has_seen(device: torch.device) -> None:
    tensors = some(device)
    kept = addresses(tensors)
    table = AddressTable(3, 1, device)
    table.refresh([kept])
    kept[0] = torch.zeros(9, device=device).data_ptr()
    assert table.refresh([kept])
    assert table.device_table[:, 0].tolist() == kept


def test_refresh_is_refused_while_a_graph_is_captured(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = some(device)
    table = AddressTable(3, 1, device)
    table.refresh([addresses(tensors)])
    moved = [*tensors[:2], torch.zeros(7, device=device)]
    monkeypatch.setattr(_tables, "_capturing", lambda _: True)
    with pytest.raises(GraphCaptureError, match="call the plan once before capture"):
        table.refresh([addresses(moved)])
    monkeypatch.setattr(_tables, "_capturing", lambda _: False)
    assert table.refresh([addresses(moved)])  # nothing was captured, and nothing is stale


def test_constant_tables_are_not_made_while_a_graph_is_captured(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy waits for a GPU, which breaks a capture; a table that is there already is given out."""
    known = constant_table((3, 1, 4159), device)
    monkeypatch.setattr(_tables, "_capturing", lambda _: True)
    assert constant_table((3, 1, 4159), device) is known
    for make in (lambda: constant_table((3, 1, 4160), device), lambda: block_table((1, 59), (2, 4160), device)):
        with pytest.raises(GraphCaptureError, match="being captured"):
            make()


def test_a_table_that_a_graph_has_captured_stays(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = some(device)
    table = AddressTable(3, 1, device)
    table.refresh([addresses(tensors)])
    monkeypatch.setattr(_tables, "_capturing", lambda _: True)
    assert not table.refresh([addresses(tensors)])  # nothing to copy: allowed
    monkeypatch.setattr(_tables, "_capturing", lambda _: False)
    assert not table.refresh([addresses(tensors)])
    moved = [*tensors[:2], torch.zeros(7, device=device)]
    with pytest.raises(GraphCaptureError, match="make another plan for calls outside of the graph"):
        table.refresh([addresses(moved)])
    assert table.device_table[:, 0].tolist() == addresses(tensors)


class Stream:
    """A stream that notes for which others it waits."""

    def __init__(self) -> None:
        self.waited: list[Stream] = []

    def wait_stream(self, other: Stream) -> None:
        self.waited.append(other)


def test_a_use_on_another_stream_waits_for_the_last_one(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no more than once: afterwards that stream is the last one."""
    first, second = Stream(), Stream()
    current = first
    monkeypatch.setattr(_tables, "_current_stream", lambda _: current)
    monkeypatch.setattr(_tables, "_stream_number", lambda _: id(current))
    table = AddressTable(3, 1, device)
    places = addresses(some(device))
    table.refresh([places])
    assert first.waited == []
    current = second
    table.refresh([places])
    table.refresh([places])
    assert second.waited == [first]
    current = first
    table.refresh([places])
    assert first.waited == [second]


def test_a_tensor_without_memory_is_refused(device: torch.device) -> None:
    table = AddressTable(2, 1, device)
    with pytest.raises(ValueError, match="column 0, row 1: expected memory of its own"):
        table.refresh([addresses([torch.zeros(3), torch.zeros(3, device="meta")])])


def test_table_without_rows(device: torch.device) -> None:
    assert not AddressTable(0, 2, device).refresh([[], []])


def test_identities_see_another_tensor_at_the_same_address() -> None:
    buffer = torch.zeros(4)
    first, second = buffer.view(torch.float32), buffer.view(torch.int32)
    assert first.data_ptr() == second.data_ptr()
    seen = Identities()
    assert not seen.same([first])
    seen.remember([first])
    assert seen.same([first])
    assert not seen.same([second])
    assert not seen.same([first, second])


def test_identities_of_gradients_survive_without_anybody_holding_them() -> None:
    param = torch.nn.Parameter(torch.zeros(3))
    param.sum().backward()
    seen = Identities()
    seen.remember([param.grad])
    gc.collect()
    assert seen.same([param.grad])
    param.grad = None
    assert not seen.same([param.grad])  # and not None in place of a reference that has died
    assert seen._seen[0]() is None  # the memory has been given back
    param.sum().backward()
    assert not seen.same([param.grad])


def test_rows_are_grouped_in_order() -> None:
    assert group_rows(["a", "b", "a", "c", "b"]) == {"a": [0, 2], "b": [1, 4], "c": [3]}


def test_only_the_rows_with_an_unaligned_address_are_unaligned() -> None:
    assert aligned_rows([[256, 512, 1024], [256, 516, 1040]]) == [True, False, True]
    assert aligned_rows([]) == []


def test_block_table_counts_every_block_once() -> None:
    table = block_table((2, 0, 3), (7, 8, 1), torch.device("cpu"))
    assert table.tolist() == [[7, 0], [7, 1], [1, 0], [1, 1], [1, 2]]
    assert table.dtype == torch.int32


@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 4)])
def test_dense_agrees_with_counting_places(shape: tuple[int, ...]) -> None:
    numel = torch.Size(shape).numel()
    base = torch.zeros(shape)
    views = [base, base.transpose(0, -1), base[1:], base[..., ::2], base[:, :1], base[:1].expand_as(base), base[0, 0]]
    views.append(torch.zeros(99).as_strided((2, 2, 2), (1, 1, 5)))  # fills 8 places of 8 but for two, those twice
    for view in views:
        places = torch.arange(max(99, numel)).as_strided(view.shape, view.stride()).flatten()
        filled = len(set(places.tolist())) == view.numel() == int(places.max()) + 1
        assert dense(view) == filled, (view.shape, view.stride())


def test_views_of_one_buffer_that_do_not_overlap_are_allowed(device: torch.device) -> None:
    buffer = torch.zeros(64, device=device)
    refuse_overlaps("tensors", list(buffer.split(9)))
    matrix = torch.zeros(6, 8, device=device)
    refuse_overlaps("tensors", [matrix[:, :3], matrix[:, 3:], torch.zeros(0), torch.zeros(0)])
    refuse_overlaps("tensors", [matrix[::2], matrix[1::2], matrix.new_zeros(3, 3).t()])
    halves = torch.zeros(16, dtype=torch.bfloat16, device=device)
    refuse_overlaps("tensors", [halves[:8].view(torch.float32), halves[8:]])
    refuse_overlaps("tensors", [])


def overlapping(device: torch.device) -> dict[str, tuple[list[Tensor], str]]:
    buffer = torch.zeros(6, 8, device=device)
    other = torch.zeros(3, device=device)
    halves = torch.zeros(16, dtype=torch.bfloat16, device=device)
    own = r"expected memory of its own, got elements of tensors\[0\]"
    return {
        "twice": ([buffer, other, buffer], rf"tensors\[2\]: {own}"),
        "twice, strided": ([buffer[:, :3], other, buffer[:, :3]], rf"tensors\[2\]: {own}"),
        "rows": ([buffer[:3], other, buffer[2:]], rf"tensors\[2\]: {own}"),
        "columns": ([buffer[:, :4], buffer[:, 3:]], rf"tensors\[1\]: {own}"),
        "within, after a shorter one": ([buffer, buffer[0, :2], buffer[4]], rf"tensors\[1\]: {own}"),
        "other dtype": ([halves, other, halves[14:].view(torch.float32)], rf"tensors\[2\]: {own}"),
        "later first": ([buffer[2:], buffer[:3]], rf"tensors\[1\]: {own}"),
        "itself": ([other, other[:1].expand(4)], r"tensors\[0\]|tensors\[1\]"),
        "itself alone": ([other[:1].expand(4)], r"tensors\[0\]: expected a place for each element"),
    }


@pytest.mark.parametrize("kind", list(overlapping(torch.device("cpu"))))
def test_tensors_that_share_elements_are_refused(device: torch.device, kind: str) -> None:
    tensors, message = overlapping(device)[kind]
    with pytest.raises(ValueError, match=message):
        refuse_overlaps("tensors", tensors)


def test_overlap_is_found_wherever_it_is_in_the_list(device: torch.device) -> None:
    """The sorted ranges: each neighbor in turn, one element too far."""
    buffer = torch.zeros(40, device=device)
    bounds = list(pairwise([0, 3, 9, 10, 25, 40]))
    refuse_overlaps("tensors", [buffer[a:b] for a, b in reversed(bounds)])
    for changed in range(1, len(bounds)):
        views = [buffer[a - (place == changed) : b] for place, (a, b) in enumerate(bounds)]
        with pytest.raises(ValueError, match=rf"tensors\[{changed}\]: expected memory of its own"):
            refuse_overlaps("tensors", views)
