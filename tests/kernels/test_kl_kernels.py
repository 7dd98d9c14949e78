"""What the divergences cost on a GPU, as far as it shows without one: machine code, products, chunks and layout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from typing import Any

import pytest
import torch

from safe_kernels import linear_kl_divergence
from safe_kernels.kl import linear_fallback
from safe_kernels.kl import triton as kl
from safe_kernels.kl.linear_fallback import LinearHeads
from tests.kernels.test_kl_linear import problem
from tests.kernels.test_kl_logits import expected as logits_expected
from tests.kernels.test_kl_logits import measured as logits_measured
from tests.kernels.test_kl_logits import pair
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
    assert result["resident"] * kl.WARPS >= 24
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


# Chunks, products, layout


@pytest.mark.parametrize(("vocabulary", "dtype", "chunk"), [
    (1024, torch.float32, 2**26 // 4096), (1024, torch.bfloat16, 2**26 // 2048), (2**24, torch.float32, 64),
    (0, torch.float32, 2**26 // 4),
])  # fmt: skip
def test_default_chunks_of_pytorchs_operations_fill_a_cache_and_are_no_shorter_than_64(
    vocabulary: int, dtype: torch.dtype, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_fallback, "_CHUNK_BYTES", 2**26)
    assert linear_fallback.default_chunk(vocabulary, dtype) == chunk


@pytest.mark.parametrize(("vocabulary", "chunk"), [(152064, 2048), (32000, 8192), (128256, 2304), (262144, 1024)])
def test_default_chunks_are_whole_tiles(vocabulary: int, chunk: int) -> None:
    """1.25 GB over 4 bytes a class and token, rounded down to 256; at most 8192."""
    assert kl.default_chunk(vocabulary, torch.bfloat16) == chunk


@pytest.mark.parametrize(
    ("tokens", "largest", "chunk"),
    [(8192, 2048, 2048), (5000, 2048, 1792), (100, 2048, 100), (7, 3, 3), (2049, 2048, 1280)],
)
def test_chunks_are_even(tokens: int, largest: int, chunk: int) -> None:
    assert kl.even_chunk(tokens, largest) == chunk
    assert -(-tokens // chunk) == -(-tokens // largest)


@pytest.mark.parametrize("vocabulary", [150, 160, 1])
def test_rows_begin_where_wide_loads_may(vocabulary: int) -> None:
    weight = torch.randn(vocabulary, 8)
    rows = kl.LogitRows(5, 3, LinearHeads(weight, None, None, None, None, 1.0))
    assert rows.width % 16 == 0
    assert rows.width - vocabulary < 16
    for size in (3, 2):  # the last chunk is smaller: what was a teacher's row becomes a row of differences
        states = torch.randn(2, size, 8)
        teacher, difference = rows.fill(states[0], states[1])
        torch.testing.assert_close(teacher[:, :vocabulary], states[1] @ weight.T)
        torch.testing.assert_close(difference[:, :vocabulary], (states[0] - states[1]) @ weight.T)
        assert (teacher[:, vocabulary:] == -torch.inf).all()
        assert (difference[:, vocabulary:] == 0.0).all()


@pytest.mark.parametrize("vocabulary", [150, 160])
def test_padding_does_not_show(vocabulary: int, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 3 and 2 tokens, whose memory is shared, under a cap, which makes -inf finite."""
    student, teacher, weight = problem(5, vocabulary=vocabulary, device=device)
    found = []
    for backend in ("triton", "torch"):
        monkeypatch.setenv("SAFE_KERNELS_BACKEND", backend)
        options = {"logit_softcap": 2.0, "chunk_tokens": 3, "reduction": "none"}
        found.append(linear_kl_divergence(student, teacher, weight, **options))
    torch.testing.assert_close(*found)


def test_a_shared_head_is_read_twice_a_chunk(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for the logits and differences together, once for the gradient."""
    student, teacher, weight = problem(5, device=device)
    read = []
    product = kl.product
    monkeypatch.setattr(kl, "product", lambda a, b, out: (read.append(tuple(a.shape)), product(a, b, out)))
    monkeypatch.setenv("SAFE_KERNELS_BACKEND", "triton")
    linear_kl_divergence(student.requires_grad_(), teacher, weight, chunk_tokens=3)
    assert read == [(6, 24), (3, 150), (4, 24), (2, 150)]


def test_rows_with_gaps_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(3, 160)[:, :150]
    assert kl._by_rows(logits) is logits
    assert kl._by_rows(logits.t()).is_contiguous()


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("vocabulary", [8197, 32064, 92553, 152064])
def test_native_sizes(vocabulary: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than one block natively; rows beyond 2^31 elements; the last token is the first again."""
    monkeypatch.setenv("SAFE_KERNELS_BACKEND", "triton")
    tokens = 2**31 // vocabulary + 2 if vocabulary > 90000 else 9
    student, teacher, weight = (tensor.bfloat16() for tensor in problem(tokens, 64, vocabulary, 1e-2, device="cuda"))
    student[-1], teacher[-1] = student[0], teacher[0]
    found = linear_kl_divergence(student, teacher, weight, reduction="none", chunk_tokens=tokens)
    assert torch.equal(found[-1], found[0])
