"""Every configuration compiles for GPUs that are not there, without spills and within the chip's shared memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

SHARED_MEMORY_LIMIT = {"sm_80": 166912, "sm_90": 232448, "sm_100": 232448, "gfx942": 65536}
"""Bytes a program may use: CUDA C++ Programming Guide, compute capabilities; CDNA3 ISA, local data share."""

EVERYDAY = ["sm_90", "gfx942"]
REST = ["sm_80", "sm_100"]


def compiled(*options: str) -> list[dict[str, Any]]:
    """Compile in a process of its own: kernels defined under the interpreter cannot be compiled."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "bench.compiled", "--json", "-", *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def assert_well_compiled(found: list[dict[str, Any]]) -> None:
    assert found
    for result in found:
        label = f"{result['name']} for {result['target']}: {result}"
        assert result["registers"] > 0, label
        assert result["shared"] <= SHARED_MEMORY_LIMIT[result["target"]], label
        assert result["float64"] == 0, label
        if result["target"] == "sm_90":
            assert result["spills"] == 0, label
        if result["allows_vector_loads"]:
            assert result["vector_loads"] > 0, label


def assert_diagonal_streams(found: list[dict[str, Any]]) -> None:
    """In the loop of the Fisher diagonal all copies from memory are asynchronous, of 16 bytes or of a tensor.

    On Hopper the loop waits for products no more often than once a block of tokens: each matrix instruction of a block
    follows the last without a wait, and only the end of a sample waits for all.
    """
    names = ("fisher diagonal",)
    loops = [
        (result, loop)
        for result in found
        if result["name"].startswith(names) and result["target"] != "gfx942"
        for loop in result["loops"]
        if loop["matrix"]
    ]
    assert loops
    for result, loop in loops:
        label = f"{result['name']} for {result['target']}: {loop}"
        assert loop["loads"] == 0, label
        assert loop["async_copies"] == loop["wide_copies"] > 0, label
        assert loop["spills"] == result["spills"] == 0, label
        if result["target"] == "sm_90":
            assert loop["product_waits"] <= 2 <= loop["matrix"], label


@pytest.mark.parametrize("target", [*EVERYDAY, *(pytest.param(target, marks=pytest.mark.slow) for target in REST)])
def test_shipped_configurations(target: str) -> None:
    found = compiled("--shipped", "--targets", target)
    assert_well_compiled(found)
    half_precision_fisher = next(result for result in found if result["name"] == "fisher diagonal bf16")
    assert half_precision_fisher["matrix"] > 0
    if target != "gfx942":
        assert_diagonal_streams(found)


@pytest.mark.parametrize(
    ("name", "bytes_in_wide_loads"),
    [
        # A thread handles 16 elements. Gradients of the average are read in 8 bytes beside the Fisher's 16.
        ("ewc penalty bf16, gradient bf16, anchor fp32", 16 * (2 + 2 + 4 + 4)),
        ("ewc penalty fp32, gradient fp32, anchor fp32", 16 * (4 + 4 + 4 + 4)),
        ("squared-gradient average bf16", 16 * 4),
    ],
)
def test_full_blocks_of_many_tensors_are_read_in_wide_loads(name: str, bytes_in_wide_loads: int) -> None:
    """Also where a tensor's length is odd: then its last block alone is read element by element."""
    results = {result["name"]: result for result in compiled("--only", name, "--targets", "sm_90")}
    assert results[name]["vector_loads"] == bytes_in_wide_loads / 16
    assert results[f"{name} unaligned"]["vector_loads"] == 0  # negative control


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("target", [*EVERYDAY, *REST])
def test_every_configuration(target: str) -> None:
    """Once with those of float16, which compile as those of bfloat16 do."""
    found = compiled("--targets", target, *([] if target == "sm_90" else ["--skip", "fp16"]))
    assert_well_compiled(found)
    if target != "gfx942":
        assert_diagonal_streams(found)


def test_the_check_sees_spills_double_precision_and_scalar_loads() -> None:
    """Negative control: one broken figure at a time."""
    good = {
        "name": "kernel", "target": "sm_90", "registers": 64, "spills": 0, "shared": 0, "vector_loads": 4, "loads": 4,
        "matrix": 0, "float64": 0, "allows_vector_loads": True, "elements": 16.0, "loops": [], "resident": 2,
    }  # fmt: skip
    assert_well_compiled([good])
    for broken in ({"spills": 1}, {"float64": 1}, {"vector_loads": 0}, {"shared": 10**6}, {"registers": 0}):
        with pytest.raises(AssertionError):
            assert_well_compiled([{**good, **broken}])


LOOP = {
    "instructions": 123, "shortest": 123, "matrix": 4, "barriers": 4, "product_waits": 2, "async_copies": 8,
    "wide_copies": 8, "loads": 0, "wide_loads": 0, "stores": 0, "wide_stores": 0, "special": 0, "spills": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    "broken",
    [
        {"wide_copies": 2},  # what float32 operands had: 8 copies of 4 bytes beside 2 of 16
        {"loads": 16},  # what bfloat16 operands had where a side was no multiple of 16
        {"async_copies": 0, "wide_copies": 0},
        {"product_waits": 3},
        {"spills": 1},
    ],
)
def test_the_check_sees_loads_that_do_not_stream(broken: dict[str, int]) -> None:
    """Negative control: one broken figure at a time."""
    result = {"name": "fisher diagonal bf16", "target": "sm_90", "spills": 0}
    assert_diagonal_streams([{**result, "loops": [LOOP]}])
    with pytest.raises(AssertionError):
        assert_diagonal_streams([{**result, "loops": [{**LOOP, **broken}]}])


def compiled_variant(changes: str, target: str) -> dict[str, Any]:
    """One configuration of the Fisher diagonal with other constants, warps or alignment."""
    program = (
        "import dataclasses, json, bench.compiled as c, bench.configurations as s;"
        "f = next(x for x in s.configurations('cuda') if x.name == 'fisher diagonal bf16');"
        f"found = c.compile_configuration(dataclasses.replace(f, {changes}), {target!r});"
        "print(json.dumps(dataclasses.asdict(found)))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    return json.loads(done.stdout)


def test_a_program_with_too_few_warps_spills() -> None:
    """Negative control: the figures come from the compiler, which must see two sums of a tile fill four warps."""
    assert compiled_variant("warps=4", "sm_80")["spills"] > 100


def test_rows_that_are_not_aligned_do_not_stream() -> None:
    """Negative control: without the promise that rows begin at multiples of 16 elements, copies are of 2 bytes."""
    found = compiled_variant("odd=(*f.odd, 'x_stride', 'y_stride')", "sm_80")
    with pytest.raises(AssertionError):
        assert_diagonal_streams([found])
