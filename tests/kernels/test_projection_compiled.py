"""The projection's machine code for Hopper: fewer issue slots an element than its memory traffic leaves."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from safe_kernels.null_space import triton as launches
from tests.kernels.test_compiled import compiled

SLOTS_A_SECOND = 132 * 4 * 32 * 1.7e9
"""Of an H100: multiprocessors, schedulers, lanes, clock (NVIDIA H100 Tensor Core GPU Architecture)."""

BANDWIDTH = 3.35e12
"""Bytes a second of an H100's memory, by its data sheet."""


def slots(traffic: float) -> float:
    """Issue slots that pass while so many bytes move."""
    return traffic / BANDWIDTH * SLOTS_A_SECOND


def shipped(only: str) -> dict[str, dict[str, Any]]:
    return {result["name"]: result for result in compiled("--shipped", "--targets", "sm_90", "--only", only)}


def taken(result: dict[str, Any]) -> float:
    """Slots an element, all hot loops together."""
    return sum(loop["instructions"] for loop in result["loops"]) / result["elements"]


def assert_rows_are_memory_bound(result: dict[str, Any]) -> None:
    """Two loops of asynchronous wide copies, products on tensor cores, wide stores, and slots to spare."""
    first, second = result["loops"]
    for loop in (first, second):
        assert loop["loads"] == 0
        assert loop["wide_copies"] == loop["async_copies"] > 0
        assert loop["matrix"] > 0
    assert first["stores"] == 0
    assert second["wide_stores"] == second["stores"] > 0
    assert result["spills"] == 0
    assert result["resident"] >= 2
    assert taken(result) < slots(2 * (4 if "fp32" in result["name"] else 2))


def assert_flat_is_memory_bound(result: dict[str, Any], basis: int, rank: int) -> None:
    (loop,) = result["loops"]
    assert result["spills"] == 0
    assert loop["wide_loads"] >= loop["loads"] // 2
    assert result["resident"] >= 4
    assert taken(result) < 0.5 * slots(2 + basis * rank)


def test_row_forms() -> None:
    found = shipped("row projection")
    assert set(found) == {f"row projection {dtype} rank {rank}" for dtype in ("bf16", "fp32") for rank in (16, 64)}
    for result in found.values():
        assert_rows_are_memory_bound(result)
    assert taken(found["row projection bf16 rank 16"]) < 0.5 * slots(4)
    # Blocks of 32 rows take more slots than of 64 (29), and on an H100 no longer.
    assert taken(found["row projection fp32 rank 16"]) < 0.6 * slots(8)


@pytest.mark.parametrize(("capability", "much"), [((8, 0), False), ((9, 0), True), ((10, 0), True), ((12, 0), False)])
def test_stages_by_the_memory_that_threads_share(
    capability: tuple[int, int], much: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    assert launches.shares_much_memory(torch.device("cuda", 0)) == much
    assert [launches.stages(rank, much) for rank in (16, 32, 64)] == [4 if much else 3, 3, 3]
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert not launches.shares_much_memory(torch.device("cuda", 0))


def test_flat_forms() -> None:
    found = shipped("flat ")
    for name, result in found.items():
        if "reduction" in name:
            assert result["loops"][0]["loads"] >= 8  # in parallel, not one partial sum after the other
        else:
            assert_flat_is_memory_bound(result, 4 if "basis fp32" in name else 2, 8 if "rank 8" in name else 64)
    assert len(found) == 11


def test_the_check_sees_scalar_accesses_and_too_many_instructions() -> None:
    """Negative control: the launch of an unaligned tensor, and twice as many instructions."""
    (unaligned,) = compiled("--targets", "sm_90", "--only", "row projection bf16 rank 16 unaligned")
    good = shipped("row projection bf16 rank 16")["row projection bf16 rank 16"]
    assert_rows_are_memory_bound(good)
    for broken in (unaligned, {**good, "elements": good["elements"] / 3}, {**good, "resident": 1}):
        with pytest.raises(AssertionError):
            assert_rows_are_memory_bound(broken)
