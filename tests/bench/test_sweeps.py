"""Sweeps patch constants by name: what is not there fails its row alone, and nothing stays patched."""

from __future__ import annotations

import sys
from functools import cache
from types import ModuleType
from typing import NamedTuple

import pytest

from bench.test_sweeps import CHUNK, SWEEPS, patched


class Tile(NamedTuple):
    rows: int
    warps: int


@cache
def remembered() -> int:
    return sys.modules["made_for_sweeps"].SIZE  # type: ignore[attr-defined]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    made = ModuleType("made_for_sweeps")
    vars(made).update(SIZE=4, stages=len, TABLE={"half": {16: 128, 32: 64}}, remembered=remembered)
    remembered.cache_clear()
    monkeypatch.setitem(sys.modules, made.__name__, made)
    return made


def test_a_constant_is_set_and_set_back(module: ModuleType) -> None:
    with patched("made_for_sweeps:SIZE", 8):
        assert vars(module)["SIZE"] == 8
    assert vars(module)["SIZE"] == 4


def test_what_was_remembered_of_a_constant_is_forgotten(module: ModuleType) -> None:
    """Else a launch plan that was made before would be timed again and again."""
    assert remembered() == 4
    with patched("made_for_sweeps:SIZE", 8):
        assert remembered() == 8
    assert remembered() == 4


def test_an_entry_of_a_mapping_is_set(module: ModuleType) -> None:
    with patched("made_for_sweeps:TABLE/half/16", 32):
        assert vars(module)["TABLE"] == {"half": {16: 32, 32: 64}}
    assert vars(module)["TABLE"] == {"half": {16: 128, 32: 64}}


def test_a_named_tuple_becomes_one_of_its_kind(module: ModuleType) -> None:
    """Sweeps list plain tuples: the kernels' module, which asks for Triton, is not there when they are read."""
    vars(module)["TILES"] = {8: Tile(64, 4)}
    with patched("made_for_sweeps:TILES/8", (32, 2)):
        assert vars(module)["TILES"][8] == Tile(32, 2)
        assert isinstance(vars(module)["TILES"][8], Tile)
    assert vars(module)["TILES"] == {8: Tile(64, 4)}


def test_a_function_returns_the_value(module: ModuleType) -> None:
    with patched("made_for_sweeps:stages", 3):
        assert vars(module)["stages"]("cuda") == 3
    assert vars(module)["stages"]("cuda") == 4


@pytest.mark.parametrize("name", ["OTHER", "TABLE/float32", "TABLE/half/64", "SIZE/half"])
def test_what_is_not_there_is_told(module: ModuleType, name: str) -> None:
    message = "the sweep is older than the kernels"
    with pytest.raises(LookupError, match=message), patched(f"made_for_sweeps:{name}", 8):
        pass


def test_sweeps_name_constants_that_are_there() -> None:
    """Where this fails, the kernels have moved on: bench/test_sweeps.py is to follow."""
    for sweep in SWEEPS:
        if sweep.place != CHUNK:
            with patched(sweep.place, sweep.values[0]):
                pass
