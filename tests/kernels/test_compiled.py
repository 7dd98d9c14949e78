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


@pytest.mark.parametrize("target", [*EVERYDAY, *(pytest.param(target, marks=pytest.mark.slow) for target in REST)])
def test_shipped_configurations(target: str) -> None:
    found = compiled("--shipped", "--targets", target)
    assert_well_compiled(found)
    half_precision_fisher = next(result for result in found if result["name"] == "fisher diagonal bf16")
    assert half_precision_fisher["matrix"] > 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("target", [*EVERYDAY, *REST])
def test_every_configuration(target: str) -> None:
    assert_well_compiled(compiled("--targets", target))


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


def test_a_tile_that_is_too_large_spills() -> None:
    """Negative control: the figures come from the compiler, which must see a Fisher tile of 128 in float32 spill."""
    program = (
        "import dataclasses, bench.compiled as c, bench.configurations as s;"
        "f = next(x for x in s.configurations('cuda') if x.name == 'fisher diagonal fp32');"
        "big = dataclasses.replace(f, constants={**f.constants, 'TILE': 128});"
        "print(c.compile_configuration(big, 'sm_80').spills)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert int(done.stdout) > 100
