"""The projection's machine code for Hopper: fewer issue slots an element than its memory traffic leaves."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from safe_kernels.project_null_space import plan, triton_impl
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
    assert set(found) == {f"row projection {dtype} rank {rank}" for dtype in ("bf16", "fp32") for rank in (8, 64)} | {
        f"row projection {dtype} rank 8 long" for dtype in ("bf16", "fp32")
    }
    for result in found.values():
        assert_rows_are_memory_bound(result)
    assert taken(found["row projection bf16 rank 8"]) < 0.5 * slots(4)
    assert taken(found["row projection bf16 rank 8 long"]) < 0.9 * slots(4)
    assert taken(found["row projection fp32 rank 8"]) < 0.5 * slots(8)
    assert taken(found["row projection fp32 rank 8 long"]) < 0.6 * slots(8)


@pytest.mark.parametrize(("capability", "much"), [((8, 0), False), ((9, 0), True), ((10, 0), True), ((12, 0), False)])
def test_stages_by_the_memory_that_threads_share(
    capability: tuple[int, int], much: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    assert triton_impl.shares_much_memory(torch.device("cuda", 0)) == much
    tiles = [tile(torch.float32, 64, rank, much=much) for rank in triton_impl.ROW_RANKS]
    assert [tile.stages for tile in tiles] == [4 if much else 3, 4 if much else 3, 3, 3]
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert not triton_impl.shares_much_memory(torch.device("cuda", 0))


def tile(
    dtype: torch.dtype, dimension: int, rank: int = 8, by_vector: bool = False, aligned: bool = True, much: bool = True
) -> triton_impl.RowTile:
    return triton_impl.row_tile(dtype, dimension, rank, by_vector=by_vector, aligned=aligned, much_memory=much)


def test_tiles_by_dtype_length_and_alignment() -> None:
    """Blocks of long rows are lower, so that those in work stay in the L2 cache; 64 rows for larger ranks."""
    short, long = (tile(torch.float32, length) for length in (1024, 1025))
    assert (short.rows, long.rows) == (32, 16)
    assert short.warps == short.slices == long.warps == long.slices == 4
    assert tile(torch.float32, 9999, rank=32).rows == 64
    assert tile(torch.float32, 64, aligned=False).columns == short.columns // 2
    lengths = (2048, 2049)
    short, long = (tile(torch.bfloat16, length) for length in lengths)
    assert (short.slices, short.warps, long.slices, long.warps) == (1, 4, 4, 4)
    assert {tile(torch.bfloat16, length, by_vector=True) for length in lengths} == {short}
    assert {tile(torch.bfloat16, length, much=False) for length in lengths} == {short._replace(stages=3)}
    assert {tile(torch.float16, length, rank=16) for length in lengths} == {triton_impl.HALF_TILES[16]}
    assert triton_impl.LONG_ROWS["half"] == plan._LONG_ROW


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
    (unaligned,) = compiled("--targets", "sm_90", "--only", "row projection bf16 rank 8 unaligned")
    good = shipped("row projection bf16 rank 8")["row projection bf16 rank 8"]
    assert_rows_are_memory_bound(good)
    for broken in (unaligned, {**good, "elements": good["elements"] / 3}, {**good, "resident": 1}):
        with pytest.raises(AssertionError):
            assert_rows_are_memory_bound(broken)
