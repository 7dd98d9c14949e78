"""The page of compiled kernels: one row a configuration, whichever targets have it."""

from __future__ import annotations

from typing import Any


def compiled(name: str, target: str, registers: int) -> Any:
    # Imported where it is used: it defines every kernel, and tests of kernels ask for the interpreter before that.
    from bench.compiled import Compiled

    return Compiled(
        name=name, target=target, registers=registers, spills=0, shared=1024, vector_loads=2, loads=3, matrix=4,
        float64=0, allows_vector_loads=True, elements=0.0, loops=(), resident=2,
    )  # fmt: skip


def test_a_launch_that_a_target_does_not_have_leaves_its_cell_empty() -> None:
    from bench.compiled import page

    found = [compiled("both", "sm_80", 11), compiled("both", "sm_90", 12), compiled("one", "sm_90", 13)]
    lines = page(found).splitlines()
    assert "| configuration | sm_80 | sm_90 |" in lines
    cell = "reg, 0 spills, 1 KiB, 2/3 loads, 4 mma"
    assert f"| both | 11 {cell} | 12 {cell} |" in lines
    assert f"| one |  | 13 {cell} |" in lines
