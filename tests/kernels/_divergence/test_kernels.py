"""What a row of a divergence costs on a GPU, as far as it shows without one: machine code, both paths, offsets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from typing import Any

import pytest
import torch

from safe_kernels._divergence.triton_impl import WARPS
from tests.kernels.kl.test_api import expected as logits_expected
from tests.kernels.kl.test_api import measured as logits_measured
from tests.kernels.kl.test_api import pair
from tests.tolerances import DIVERGENCE_GRADIENT, DIVERGENCE_VALUE, relative_error

PROGRAM = """
import dataclasses, json, sys, bench.compiled as compiled, bench.configurations as all
wanted = json.loads(sys.argv[1])
found = [compiled.compile_configuration(c, "sm_90") for c in all.configurations("cuda") if c.name in wanted]
print(json.dumps([dataclasses.asdict(result) for result in found]))
"""

NAMES = ("linear kl forward bf16", "linear kl reverse bf16", "kl logits forward forward bf16",
         "kl logits backward forward bf16")  # fmt: skip


@cache
def compiled() -> dict[str, dict[str, Any]]:
    """In a process of its own: kernels defined under the interpreter cannot be compiled."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", PROGRAM, json.dumps(NAMES)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return {result["name"]: result for result in json.loads(done.stdout)}


def loops(name: str) -> list[float]:
    """Instructions an element of the loops that load and compute, on the shortest way around."""
    result = compiled()[name]
    return [loop["shortest"] / result["elements"] for loop in result["loops"] if loop["loads"]]


@pytest.mark.parametrize("name", ["linear kl forward bf16", "linear kl reverse bf16"])
def test_common_path_of_a_row(name: str) -> None:
    """Statistics and the gradient where student and teacher are close: once 111 instructions an element."""
    statistics, _, *gradient = loops(name)  # the second is the student's normalizer, of rows far apart
    assert len(gradient) == 2
    assert statistics + min(gradient) <= (50 if "forward" in name else 58)


def test_common_path_of_given_logits() -> None:
    """Once 79 and 48 instructions an element."""
    assert loops("kl logits forward forward bf16")[0] <= 38
    assert min(loops("kl logits backward forward bf16")) <= 26


@pytest.mark.parametrize("name", NAMES)
def test_enough_warps_wait_for_memory(name: str) -> None:
    """Four loads of 16 bytes a thread: 48 KiB in flight with 24 warps, where latency times rate is about 18 KiB."""
    result = compiled()[name]
    assert result["spills"] == 0
    assert result["resident"] * WARPS >= 24
    assert all(
        loop["wide_loads"] == loop["loads"] and loop["wide_stores"] == loop["stores"] for loop in result["loops"]
    )


@pytest.mark.parametrize("name", NAMES)
def test_one_exponential_on_the_common_path(name: str) -> None:
    result = compiled()[name]
    fewest = min(loop["special"] / result["elements"] for loop in result["loops"] if loop["loads"])
    assert fewest <= 1.1


# Both paths in one row


@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd"])
@pytest.mark.parametrize("likely", [True, False])
def test_near_and_far_blocks_in_one_row(backend: str, device: torch.device, divergence: str, likely: bool) -> None:
    """The middle block's differences are of size 3 beside 1e-3; unlikely, it must cost the others no digit."""
    student, teacher = pair(3, 201, 1e-3, device)
    student[:, 64:128] += 3.0 * torch.randn(3, 64, device=device)
    if not likely:
        student[:, 64:128] -= 25.0
        teacher[:, 64:128] -= 25.0
    want, want_gradient = logits_expected(student, teacher, divergence)
    got, got_gradient = logits_measured(student, teacher, divergence)
    assert (want.max() < 1e-5) != likely
    assert relative_error(got, want) < DIVERGENCE_VALUE[torch.float32]
    assert relative_error(got_gradient, want_gradient) < DIVERGENCE_GRADIENT[torch.float32]


@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd"])
@pytest.mark.parametrize("size", [0.2499, 0.2501])
def test_both_sides_of_the_limit(backend: str, device: torch.device, divergence: str, size: float) -> None:
    """Differences of one size and either sign: the series at its last, and what follows at its first."""
    teacher = torch.randn(2, 130, device=device)
    student = teacher + size * torch.randn(2, 130, device=device).sign()
    want, want_gradient = logits_expected(student, teacher, divergence)
    got, got_gradient = logits_measured(student, teacher, divergence)
    assert relative_error(got, want) < DIVERGENCE_VALUE[torch.float32]
    assert relative_error(got_gradient, want_gradient) < DIVERGENCE_GRADIENT[torch.float32]


# Beyond 32 bits


OFFSETS = """
import json, sys, triton, bench.compiled as compiled, bench.configurations as plans
from triton.compiler import ASTSource
for c in plans.configurations("cuda"):
    if c.name in json.loads(sys.argv[1]):
        names = list(c.kernel.arg_names)
        signature = dict.fromkeys(names, "constexpr")
        signature.update(zip([n for n in names if n not in c.constants], c.types))
        constants = {(names.index(n),): v for n, v in c.constants.items()}
        code = triton.compile(ASTSource(c.kernel, signature, constants), target=compiled.TARGETS["sm_90"]).asm["ttir"]
        products = [line.split(":")[1].split()[0] for line in code.splitlines() if "arith.muli" in line]
        print(c.name, *products)
"""


def test_offsets_beyond_32_bits() -> None:
    """Row numbers are 64-bit before they are multiplied: row 20,000 of 152,064 classes begins at 3.04e9."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", OFFSETS, json.dumps(NAMES)]
    lines = subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout.splitlines()
    assert len(lines) == len(NAMES)
    for line in lines:
        dtypes = line.split("bf16 ")[1].split()
        assert set(dtypes) == {"i64"}, line
