"""Constants of the kernels' launches, one value after the other, at sizes for a GPU.

A constant is patched by its name in its module, an entry of a mapping by the name and its keys: `module:NAME/key/key`;
instead of a function stands one that returns the value, instead of a named tuple one of its kind.
One that is not there, because the kernels have moved on, is an error of its row; so is a value with which a kernel does
not compile, or gives another result.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.gpu.cases import Case, fisher_case, linear_case, logits_case, projection_case
from bench.measure import device_timing, relative_error
from bench.rehearsal import sized

pytestmark = pytest.mark.sweep

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
SAME = {"bf16": 2e-2, "fp32": 1e-4}
"""Relative difference from the result with the shipped constants: the order of sums differs."""

CHUNK = "argument:chunk_tokens"


@dataclass(frozen=True)
class Sweep:
    """Values of one constant for one operation at one size.

    Attributes:
        place: `module:CONSTANT`, perhaps with keys, or `CHUNK`.
        values: what it is set to.
        case: makes the case; of a chunk's size, for `CHUNK`.
        dtype: of the operands.
    """

    place: str
    values: tuple[Any, ...]
    case: Callable[[int | None], Case]
    dtype: str = "bf16"


def fisher(tokens: int) -> Callable[[int | None], Case]:
    """The Fisher diagonal of a layer of 4096 x 4096."""
    return lambda _: fisher_case(sized(16, 2), sized(tokens, 3), sized(4096, 20), sized(4096, 20))


def logits(_: int | None) -> Case:
    """KL of given logits."""
    return logits_case(sized(2048, 2), sized(152064, 70))


def linear(chunk: int | None) -> Case:
    """KL under a head, by chunks."""
    return linear_case(sized(8192, 4), sized(4096, 16), sized(152064, 70), chunk=chunk)


def projection(rank: int, columns: int = 1024) -> Callable[[int | None], Case]:
    """Projection of rows: 150 M elements in 400 tensors."""
    shapes = sized([(366 * 1024 // columns, columns)] * 400, [(6, 12)])
    return lambda _: projection_case(shapes, rank)


SWEEPS = [
    Sweep(CHUNK, sized((512, 1024, 2048, 4096, 8192), (1, 2, 4)), linear),  # first: it compiles one kernel
    Sweep("safe_kernels.fisher_diagonal.triton_impl:TOKENS", ((32,), (64,)), fisher(512)),
    Sweep("safe_kernels.fisher_diagonal.triton_impl:TOKENS", ((32,), (64,)), fisher(64)),
    Sweep("safe_kernels.fisher_diagonal.triton_impl:stages", (3, 4, 5, 6), fisher(512)),
    Sweep("safe_kernels.fisher_diagonal.triton_impl:stages", (3, 4, 5, 6), fisher(64)),
    Sweep("safe_kernels.fisher_diagonal.triton_impl:TOKENS", ((32,), (64,)), fisher(512), "fp32"),
    Sweep("safe_kernels._divergence.triton_impl:WARPS", (4, 8, 16), logits),
    Sweep("safe_kernels._divergence.triton_impl:_BLOCK", (2048, 4096, 8192), logits),
    Sweep(
        "safe_kernels.project_null_space.triton_impl:HALF_TILES/8",
        ((64, 1, 128, 4), (64, 1, 128, 3), (64, 1, 64, 4), (32, 2, 64, 4)),
        projection(8),
    ),
    Sweep(
        "safe_kernels.project_null_space.triton_impl:LONG_HALF_TILES/8",
        ((16, 4, 128, 3), (32, 8, 64, 3), (32, 4, 64, 3), (64, 1, 128, 4)),
        projection(8, 4096),
    ),
    Sweep(
        "safe_kernels.project_null_space.triton_impl:FLOAT32_TILES/8",
        ((32, 4, 32, 4), (32, 4, 32, 3), (16, 4, 64, 2), (32, 1, 64, 4)),
        projection(8),
        "fp32",
    ),
    Sweep(
        "safe_kernels.project_null_space.triton_impl:LONG_FLOAT32_TILES/8",
        ((16, 4, 64, 4), (16, 4, 64, 3), (16, 8, 64, 3), (32, 4, 32, 4)),
        projection(8, 4096),
        "fp32",
    ),
    Sweep("safe_kernels.project_null_space.triton_impl:LONG_ROWS/float32", (512, 1024), projection(8), "fp32"),
    Sweep("safe_kernels.project_null_space.triton_impl:LONG_ROWS/float32", (1024, 2048), projection(8, 1536), "fp32"),
    Sweep("safe_kernels.project_null_space.triton_impl:LONG_ROWS/half", (1024, 2048), projection(8, 1536)),
    Sweep("safe_kernels.project_null_space.triton_impl:LONG_ROWS/half", (2048, 4096), projection(8, 3072)),
    Sweep(
        "safe_kernels.project_null_space.triton_impl:FLOAT32_TILES/16",
        ((32, 4, 32, 4), (32, 1, 64, 4)),
        projection(16),
        "fp32",
    ),
    Sweep(
        "safe_kernels.project_null_space.triton_impl:FLOAT32_TILES/32",
        ((64, 1, 64, 3), (32, 4, 32, 3), (32, 4, 32, 2)),
        projection(32),
        "fp32",
    ),
]
POINTS = [(sweep, value) for sweep in SWEEPS for value in sweep.values]


def name_of(point: tuple[Sweep, Any]) -> str:
    """A row's name."""
    sweep, value = point
    module, _, constant = sweep.place.partition(":")
    part = module.split(".")[1].strip("_") if "." in module else module
    return f"{part} {constant} {value}, {sweep.case(None).name}, {sweep.dtype}"


@contextmanager
def patched(place: str, value: Any) -> Iterator[None]:
    """Sets a module's constant for a block; what the module has remembered of the old one is forgotten, too.

    Raises:
        LookupError: the module has no such constant.
    """
    module_name, _, path = place.partition(":")
    module = importlib.import_module(module_name)
    constant, *keys = path.split("/")
    if not hasattr(module, constant):
        raise LookupError(f"{place}: expected a constant of the module, got none; the sweep is older than the kernels")
    before = getattr(module, constant)
    setattr(module, constant, replaced(before, keys, value, place))
    forget(module)
    try:
        yield
    finally:
        setattr(module, constant, before)
        forget(module)


def replaced(found: Any, keys: list[str], value: Any, place: str) -> Any:
    """A copy of nested mappings with another value under the keys, each a text or a number.

    Without keys the value itself, or instead of a function one that returns it, of a named tuple one of its kind.

    Raises:
        LookupError: there is no such key.
    """
    if not keys:
        if callable(found):
            return lambda *_arguments: value
        return type(found)(*value) if hasattr(found, "_fields") else value
    key = next((known for known in found if str(known) == keys[0]), None) if isinstance(found, dict) else None
    if key is None:
        raise LookupError(f"{place}: expected the key {keys[0]}, got none; the sweep is older than the kernels")
    copy = deepcopy(found)
    copy[key] = replaced(found[key], keys[1:], value, place)
    return copy


def forget(module: ModuleType) -> None:
    """Empties the module's caches, whose entries may depend on a constant."""
    for member in vars(module).values():
        if hasattr(member, "cache_clear"):
            member.cache_clear()


@lru_cache(maxsize=1)
def shipped(sweep: Sweep, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs of a sweep, and the results with the constants as they are; kept for the points of the sweep."""
    torch.manual_seed(1)
    case = sweep.case(None)
    inputs = case.make(device, DTYPES[sweep.dtype])
    return inputs, case.call(inputs)


@pytest.fixture(scope="module", autouse=True)
def forgotten() -> Iterator[None]:
    """The last inputs are let go of in the end."""
    yield
    shipped.cache_clear()


@pytest.mark.parametrize("point", POINTS, ids=name_of)
def test_point(device: torch.device, point: tuple[Sweep, Any], record_property: Callable[[str, Any], None]) -> None:
    """Time with one value of one constant."""
    sweep, value = point
    record_property("sweep", sweep.place)
    record_property("value", value)
    record_property("size", f"{sweep.case(None).name}, {sweep.dtype}")
    inputs, want = shipped(sweep, device)
    is_chunk = sweep.place == CHUNK
    case = sweep.case(value if is_chunk else None)
    with nullcontext() if is_chunk else patched(sweep.place, value):
        measure(sweep, case, inputs, want, record_property)


def measure(
    sweep: Sweep, case: Case, inputs: list[Tensor], want: list[Tensor], record_property: Callable[[str, Any], None]
) -> None:
    """Compares the results with those of the shipped constants, and times the call."""
    difference = max(relative_error(got, other) for got, other in zip(case.call(inputs), want, strict=True))
    record_property("difference", difference)
    assert difference < SAME[sweep.dtype]
    if inputs[0].device.type == "cuda":
        timing = device_timing(case.repeated(inputs), 5)
        record_property("seconds", timing.device)
        record_property("host_seconds", timing.host)
        record_property("device_waits", timing.device_waits)
