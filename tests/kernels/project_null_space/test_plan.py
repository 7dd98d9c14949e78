"""The prepared projection: what it launches, tensors that move, bases kept in half precision, what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from safe_kernels import GraphCaptureError, ProjectionPlan, _tables, _triton, project_null_space_
from safe_kernels._backend import interpreting
from safe_kernels.project_null_space import reference, stored_basis
from tests.kernels.project_null_space.test_api import check, mixed_problem, orthonormal
from tests.tolerances import LEAKAGE, PROJECTION, ROUNDED_BASIS


def problem(device: torch.device, dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], list[Tensor]]:
    """A row form and a flat form."""
    tensors = [torch.randn(20, 24, device=device).to(dtype), torch.randn(5, 40, device=device).to(dtype)]
    return tensors, [orthonormal(24, 4, device), orthonormal(200, 3, device)]


def sine(first: Tensor, second: Tensor) -> float:
    """Sine of the largest principal angle between two subspaces."""
    left, right = (torch.linalg.qr(basis.double())[0] for basis in (first, second))
    return float(torch.linalg.matrix_norm(right - left @ (left.t() @ right), 2))


def test_calls_after_the_first(backend: str, device: torch.device) -> None:
    tensors, bases = problem(device)
    plan = ProjectionPlan(tensors, bases)
    for _ in range(3):
        for tensor in tensors:
            tensor.copy_(torch.randn_like(tensor))
        check(lambda *_, **__: plan(), tensors, bases)


def test_other_tensors_of_the_same_form(backend: str, device: torch.device) -> None:
    """Such as gradients made anew; the plan's own stay as they are."""
    tensors, bases = problem(device)
    plan = ProjectionPlan(tensors, bases)
    own = [tensor.clone() for tensor in tensors]
    kept = []
    for _ in range(2):
        others = [torch.randn_like(tensor) for tensor in tensors]
        kept.append(others)  # so that the next come to other addresses
        check(lambda given, *_, **__: plan(given), others, bases)
    assert all(map(torch.equal, tensors, own))


def test_other_strides_and_alignment(backend: str, device: torch.device) -> None:
    tensors, bases = problem(device)
    plan = ProjectionPlan(tensors, bases)
    transposed = [tensor.t().contiguous().t() for tensor in tensors]
    unaligned = [torch.randn(tensor.numel() + 1, device=device)[1:].view_as(tensor) for tensor in tensors]
    for others in (transposed, unaligned, tensors):
        check(lambda given, *_, **__: plan(given), others, bases)


def test_another_alignment_replaces_the_launches(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch of before would project with accesses that the new addresses do not allow, and a second time."""
    monkeypatch.setenv("SAFE_KERNELS_BACKEND", "triton")
    tensors, bases = problem(device)
    plan = ProjectionPlan(tensors, bases)
    unaligned = [torch.randn(tensor.numel() + 1, device=device)[1:].view_as(tensor) for tensor in tensors]
    found: list[tuple[str, bool]] = []
    launch = _triton.launch

    def noting(kernel: Any, *arguments: Any, **options: Any) -> None:
        found.append((kernel.__name__, options.get("ALIGNED", False)))
        launch(kernel, *arguments, **options)

    monkeypatch.setattr(_triton, "launch", noting)
    for others in (tensors, unaligned, tensors):
        found.clear()
        plan(others)
        after = found.copy()
        found.clear()
        ProjectionPlan(others, bases)()
        assert after == found
        assert any(aligned for _, aligned in found) == (others is tensors)


def test_a_parameter_that_moves(backend: str, device: torch.device) -> None:
    tensors, bases = problem(device)
    parameters = [torch.nn.Parameter(tensor) for tensor in tensors]
    plan = ProjectionPlan(parameters, bases)
    plan()
    moved = [torch.randn_like(tensor) for tensor in tensors]
    for parameter, tensor in zip(parameters, moved, strict=True):
        parameter.data = tensor
    check(lambda *_, **__: plan(), [parameter.detach() for parameter in parameters], bases)
    parameters[0].data = torch.randn(400, device=device)[:200].view(5, 40)  # another shape as well
    with pytest.raises(ValueError, match=r"tensors\[0\]: expected torch.float32 \[20, 24\]"):
        plan()
    both = torch.randn(20, 24, device=device)
    parameters[0].data, parameters[1].data = both, both.view(-1)[:200].view(5, 40)
    with pytest.raises(ValueError, match=r"tensors\[1\]: expected memory of its own"):
        plan()


def test_autograd_sees_the_change(backend: str, device: torch.device) -> None:
    """A tensor that the backward pass needs is not changed behind its back."""
    tensors, bases = problem(device)
    weight = torch.ones(24, device=device, requires_grad=True)
    loss = (tensors[0] * weight).sum()
    ProjectionPlan(tensors, bases)()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_nothing_to_do(backend: str, device: torch.device) -> None:
    ProjectionPlan([], [])()
    tensor = torch.randn(3, 4, device=device)
    before = tensor.clone()
    ProjectionPlan([tensor, torch.empty(0, 4, device=device)], [torch.empty(4, 0, device=device)] * 2)()
    assert torch.equal(tensor, before)


def test_a_prepared_call_launches_and_does_nothing_else(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """One launch for row forms of one kind, three for flat forms; tables are copied only where an address changed."""
    monkeypatch.setenv("SAFE_KERNELS_BACKEND", "triton")
    tensors = [torch.randn(4, 16, device=device) for _ in range(6)]
    bases = [orthonormal(16 if index % 2 else 64, 3, device) for index in range(6)]
    plan = ProjectionPlan(tensors, bases)
    plan()
    launched: list[str] = []
    monkeypatch.setattr(_triton.PreparedLaunch, "__call__", lambda self, *_: launched.append(self._kernel.__name__))
    copies: list[object] = []
    copy = _tables.AddressTable._copy
    monkeypatch.setattr(
        _tables.AddressTable, "_copy", lambda self, columns: (copies.append(columns), copy(self, columns))
    )
    plan()
    flat = ["flat_coefficients_kernel", "flat_reduce_kernel", "flat_subtract_kernel"]
    assert launched == [*flat, "row_projection_kernel"]
    assert not copies
    plan([tensor.clone() for tensor in tensors])
    assert len(copies) == 1


def test_capture_of_a_graph(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Allowed where the tables hold; refused where addresses would have to be copied."""
    monkeypatch.setenv("SAFE_KERNELS_BACKEND", "triton")
    tensors, bases = problem(device)
    plan, late = ProjectionPlan(tensors, bases), ProjectionPlan(tensors, bases)
    plan()
    monkeypatch.setattr(_tables, "_capturing", lambda _: True)
    plan()
    for refused in (late, lambda: plan([tensor.clone() for tensor in tensors])):
        with pytest.raises(GraphCaptureError, match="call the plan once before capture"):
            refused()


@pytest.mark.gpu
@pytest.mark.skipif(interpreting(), reason="needs a GPU")
def test_a_captured_graph_projects(device: torch.device) -> None:
    tensors, bases = problem(device)
    plan = ProjectionPlan(tensors, bases)
    plan()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        plan()
    for tensor in tensors:
        tensor.copy_(torch.randn_like(tensor))
    check(lambda *_, **__: graph.replay(), tensors, bases)


@pytest.mark.gpu
@pytest.mark.skipif(interpreting(), reason="needs a GPU")
@pytest.mark.parametrize("basis_dtype", [None, torch.float16])
def test_sums_of_the_flat_form_have_one_order(device: torch.device, basis_dtype: torch.dtype | None) -> None:
    tensor, basis = torch.randn(3_000_000, device=device), orthonormal(3_000_000, 8, device)
    results = []
    for _ in range(3):
        results.append(tensor.clone())
        ProjectionPlan([results[-1]], [basis], basis_dtype=basis_dtype)()
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.gpu
@pytest.mark.skipif(interpreting(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rank", [8, 32, 64])
def test_native_sizes(device: torch.device, dtype: torch.dtype, rank: int) -> None:
    """Many row blocks and columns, odd ones, and flat forms of many parts."""
    tensors = [torch.randn(shape, device=device).to(dtype) for shape in ((1000, 4096), (333, 1027), (700, 500), (9, 8))]
    bases = [orthonormal(size, min(rank, size), device) for size in (4096, 1027, 350_000, 8)]
    check(lambda given, bases, one_sided: ProjectionPlan(given, bases)(), tensors, bases)


@pytest.mark.gpu
@pytest.mark.skipif(interpreting(), reason="needs a GPU")
def test_more_elements_than_32_bits_count(device: torch.device) -> None:
    """2^31 + 2^23 elements: offsets of row blocks are 64-bit. The last rows show it."""
    rows, dimension = 2**21 + 2**13, 1024
    tensor = torch.zeros(rows, dimension, dtype=torch.bfloat16, device=device)
    tensor[-5:] = torch.randn(5, dimension, device=device)
    basis, before = orthonormal(dimension, 4, device), tensor[-5:].double()
    project_null_space_([tensor], [basis])
    want = reference.projected(before, basis.double())
    assert float((tensor[-5:].double() - want).norm()) <= PROJECTION[torch.bfloat16] * float(before.norm())


@pytest.mark.parametrize("one_sided", [False, True])
@pytest.mark.parametrize("rank", [1, 6, 17, 65])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rounded_basis_is_projected_out_exactly(
    backend: str, device: torch.device, dtype: torch.dtype, rank: int, one_sided: bool
) -> None:
    """What is removed lies in the span of the rounded vectors; of the rest, nothing in it is left."""
    tensor, basis = torch.randn(9, 31, device=device).to(dtype), orthonormal(279, rank, device)
    plan = ProjectionPlan([tensor], [basis], one_sided=one_sided, basis_dtype=torch.float16)
    rounded = stored_basis.round_basis(basis).vectors.double()
    before = tensor.double()
    coordinates = torch.linalg.lstsq(rounded, before.reshape(-1, 1)).solution  # an oracle of its own
    want = (before.reshape(-1, 1) - rounded @ (coordinates.clamp_min(0.0) if one_sided else coordinates)).view(9, 31)
    plan()
    assert float((tensor.double() - want).norm()) <= PROJECTION[dtype] * float(before.norm())
    if not one_sided and dtype == torch.float32:
        left = torch.linalg.lstsq(rounded, tensor.double().reshape(-1, 1)).solution
        assert float((rounded @ left).norm()) < LEAKAGE * float(tensor.double().norm())


@pytest.mark.parametrize("dimension", [8, 1000, 70_000])
@pytest.mark.parametrize("spread", [0.0, 2.0])
def test_a_rounded_basis_is_close_and_bfloat16_would_not_be(dimension: int, spread: float) -> None:
    """The sine of the angle between its span and the basis's, also for entries of very different size."""
    entries = torch.randn(dimension, 6, dtype=torch.float64) * (spread * torch.randn(dimension, 1)).exp()
    basis = torch.linalg.qr(entries)[0].float()
    assert sine(basis, stored_basis.round_basis(basis).vectors) < ROUNDED_BASIS
    assert sine(basis, basis.bfloat16()) > ROUNDED_BASIS


def test_a_rounded_basis_leaves_more_than_the_tolerance_of_a_step(backend: str, device: torch.device) -> None:
    """Why it is an option and not the default: of an update inside the subspace, 2e-4 is left."""
    basis = orthonormal(279, 6, device)
    update = (basis @ torch.ones(6, 1, device=device)).view(9, 31)
    exact, rounded = update.clone(), update.clone()
    ProjectionPlan([exact], [basis])()
    ProjectionPlan([rounded], [basis], basis_dtype=torch.float16)()
    size = float(update.norm())
    assert float(exact.norm()) < LEAKAGE * size < float(rounded.norm()) < ROUNDED_BASIS * size


def test_bases_of_row_forms_keep_their_digits(backend: str, device: torch.device) -> None:
    tensor, basis = torch.randn(4, 24, device=device), orthonormal(24, 5, device)
    check(lambda t, b, **_: ProjectionPlan(t, b, basis_dtype=torch.float16)(), [tensor], [basis])


def test_a_rounded_basis_takes_half_the_memory(device: torch.device) -> None:
    basis = orthonormal(300, 4, device)
    stored = stored_basis.round_basis(basis)
    assert stored.vectors.nbytes == basis.nbytes // 2
    assert stored.vectors.t().is_contiguous()


def test_other_kinds_beside_a_rounded_basis(backend: str, device: torch.device) -> None:
    tensors, bases = mixed_problem(device)
    before = [tensor.double() for tensor in tensors]
    ProjectionPlan(tensors, bases, basis_dtype=torch.float16)()
    for tensor, basis, start in zip(tensors, bases, before, strict=True):
        want = reference.projected(start, basis.double())
        tolerance = PROJECTION[tensor.dtype] + ROUNDED_BASIS
        assert float((tensor.double() - want).norm()) <= tolerance * float(start.norm())


def test_costs_are_counted_as_one_operator() -> None:
    """On the meta device, as dry runs use it."""
    tensors = [torch.empty(4, 6, device="meta"), torch.empty(12, device="meta")]
    plan = ProjectionPlan(tensors, [torch.empty(6, 2, device="meta"), torch.empty(12, 2, device="meta")])
    seen: list[str] = []

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    with Counting():
        plan()
    assert [name for name in seen if "detach" not in name] == ["safe_kernels.project_null_space_.default"]


def refused(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_bad_input_names_the_argument(device: torch.device) -> None:
    tensors, bases = problem(device)
    plan = ProjectionPlan(tensors, bases)
    refused(lambda: ProjectionPlan(tensors, bases[:1]), ValueError, "bases: expected 2 entries")
    refused(lambda: ProjectionPlan(tensors, bases[::-1]), ValueError, r"bases\[0\]: expected 24 rows")
    refused(lambda: ProjectionPlan(tensors, bases, basis_dtype=torch.bfloat16), TypeError, "expected None or torch.fl")
    refused(
        lambda: ProjectionPlan(tensors, [1.01 * basis for basis in bases], check_orthonormal=True),
        ValueError,
        r"bases\[0\]: expected orthonormal columns",
    )
    refused(lambda: plan(tensors[:1]), ValueError, "tensors: expected 2 entries, one for each of the plan's tensors")
    refused(lambda: plan(tensors[::-1]), ValueError, r"tensors\[0\]: expected torch.float32 \[20, 24\]")
    refused(lambda: plan([tensor.half() for tensor in tensors]), ValueError, r"got torch.float16 \[20, 24\]")
    half = [torch.randn(20, 24, device=device), torch.randn(5, 40, device=device)]
    half[1] = half[0].view(-1)[:200].view(5, 40)
    refused(lambda: plan(half), ValueError, r"tensors\[1\]: expected memory of its own")


def test_a_plan_inside_compiled_code_is_refused(device: torch.device) -> None:
    tensors, bases = problem(device)
    plan = ProjectionPlan(tensors, bases)

    def step(given: Tensor) -> Tensor:
        plan()
        return given + 1.0

    with pytest.raises(Exception, match="call project_null_space_"):
        torch.compile(step, backend="eager", fullgraph=True)(torch.ones(2))
