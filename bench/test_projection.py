"""Null-space projection of many tensors: each element is read and written once at least."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import safe_kernels
from bench.measure import OURS, Row, Work, compiled, relative_error, run
from bench.rehearsal import sized
from safe_kernels import project_null_space_
from safe_kernels.project_null_space import reference

pytestmark = pytest.mark.operation("project_null_space_")

FOREACH: Any = torch
"""Its multi-tensor operations are public in use and private in name."""

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
Projection = Callable[[list[Tensor], list[Tensor]], None]


def loop(tensors: list[Tensor], bases: list[Tensor]) -> None:
    """Two matrix products a tensor, in the tensor's dtype."""
    for tensor, basis in zip(tensors, bases, strict=True):
        basis = basis.to(tensor.dtype)
        tensor.addmm_(tensor @ basis, basis.T, alpha=-1.0)


def foreach(tensors: list[Tensor], bases: list[Tensor]) -> None:
    """The same products, subtracted by one multi-tensor operation."""
    pairs = zip(tensors, (basis.to(tensor.dtype) for tensor, basis in zip(tensors, bases, strict=True)), strict=True)
    FOREACH._foreach_sub_(tensors, [(tensor @ basis) @ basis.T for tensor, basis in pairs])


PROJECTIONS: dict[str, Projection] = {OURS: project_null_space_, "addmm_ a tensor": loop, "torch._foreach": foreach}

PREPARED = f"{OURS}, prepared"


def prepared_projection(tensors: list[Tensor], bases: list[Tensor]) -> Callable[[], None]:
    """The operation, checked once; skips the benchmark where there is no such form."""
    found: Any = getattr(safe_kernels, "ProjectionPlan", None)
    if found is None:
        pytest.skip("safe_kernels has no ProjectionPlan")
    return found(tensors, bases)


def measure(
    benchmark: Any,
    device: torch.device,
    name: str,
    count: int,
    shape: tuple[int, int],
    rank: int,
    dtype: torch.dtype,
    flat: bool = False,
) -> None:
    """One row of the table; the flat form also reads its bases, as large as `rank` tensors, twice."""
    tensors = [torch.randn(shape, device=device).to(dtype) for _ in range(count)]
    size = shape[0] * shape[1] if flat else shape[1]
    random = (torch.randn(size, rank, device=device) for _ in range(count))
    bases = [torch.linalg.qr(matrix)[0].contiguous() for matrix in random]
    want = reference.projected(tensors[0].double(), bases[0].double())
    prepare = name == PREPARED
    call = prepared_projection(tensors, bases) if prepare else partial(PROJECTIONS[name], tensors, bases)
    call()
    row = Row(
        operation="project_null_space_, flat form" if flat else "project_null_space_",
        size=f"{count} tensors of {shape[0]} x {shape[1]}, rank {rank}, {str(dtype).removeprefix('torch.')}",
        implementation=name,
        work=Work(traffic=2.0 * sum(tensor.nbytes for tensor in [*tensors, *(bases if flat else [])])),
        error=relative_error(tensors[0], want),
        tolerance=TOLERANCE[dtype],
        rounds=5,
    )
    run(benchmark, row, call, device)


@pytest.mark.small
@pytest.mark.parametrize("name", list(PROJECTIONS))
def test_small(benchmark: Any, device: torch.device, name: str) -> None:
    """Sizes for a CPU."""
    measure(benchmark, device, name, 40, (256, 512), 8, torch.float32)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [PREPARED, *PROJECTIONS])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_full(benchmark: Any, device: torch.device, name: str, dtype: torch.dtype) -> None:
    """Sizes of the published table; they need a GPU."""
    measure(benchmark, device, name, *sized((400, (366, 1024), 8), (3, (5, 16), 2)), dtype)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [PREPARED, "addmm_ a tensor"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("shape", sized([(1024, 4096), (366, 612)], [(5, 20)]), ids=str)
def test_full_other_rows(
    benchmark: Any, device: torch.device, name: str, dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    """Rows of which fewer fit the L2 cache, and rows that allow wide accesses in float32 alone."""
    measure(benchmark, device, name, sized(100, 2), shape, 8, dtype)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
def test_full_compiled(benchmark: Any, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop, compiled for one size: 400 tensors in one graph take minutes, 40 stand for them."""
    monkeypatch.setitem(PROJECTIONS, "torch.compile", compiled(loop))
    measure(benchmark, device, "torch.compile", *sized((40, (366, 1024), 8), (2, (5, 16), 2)), torch.bfloat16)


@pytest.mark.full
@pytest.mark.parametrize("name", [OURS, PREPARED])
def test_full_flat(benchmark: Any, device: torch.device, name: str) -> None:
    """The form that Stage A takes by default; they need a GPU."""
    measure(benchmark, device, name, *sized((100, (366, 1024), 8), (3, (5, 16), 2)), torch.float32, flat=True)
