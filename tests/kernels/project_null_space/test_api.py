"""The null-space projection: its algebra, its forms, and what it does to optimizer steps, for both backends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from safe_kernels import ProjectionPlan, _triton, project_null_space_
from safe_kernels.project_null_space import api, reference
from tests.tolerances import PROJECTION, PROJECTION_INSIDE, relative_error

Project = Callable[..., None]
HALF = [torch.bfloat16, torch.float16]
DTYPES = [torch.float32, *HALF]


def orthonormal(dimension: int, rank: int, device: torch.device | str = "cpu") -> Tensor:
    """A random orthonormal basis [d, r]."""
    return torch.linalg.qr(torch.randn(dimension, rank, dtype=torch.float64, device=device))[0].float().contiguous()


def by_vector(basis: Tensor) -> Tensor:
    """The same basis with the entries of a vector side by side in memory."""
    return basis.t().contiguous().t()


def planned(tensors: list[Tensor], bases: list[Tensor], *, one_sided: bool = False) -> None:
    """Like `project_null_space_`, by a plan."""
    ProjectionPlan(tensors, bases, one_sided=one_sided)()


PROJECTS = [project_null_space_, planned]


def check(project: Project, tensors: list[Tensor], bases: list[Tensor], one_sided: bool = False) -> None:
    """Project and compare with float64."""
    before = [tensor.double() for tensor in tensors]
    project(tensors, bases, one_sided=one_sided)
    for tensor, basis, start in zip(tensors, bases, before, strict=True):
        want = reference.projected(start, basis.double(), one_sided)
        assert tensor.isfinite().all()
        assert float((tensor.double() - want).norm()) <= PROJECTION[tensor.dtype] * max(float(start.norm()), 1e-30)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.integers(0, 70),
    dimension=st.integers(1, 70),
    rank=st.integers(0, 64),
    one_sided=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_equals_float64(
    backend: str, device: torch.device, rows: int, dimension: int, rank: int, one_sided: bool, dtype: torch.dtype
) -> None:
    tensor = torch.randn(rows, dimension, device=device).to(dtype)
    check(project_null_space_, [tensor], [orthonormal(dimension, min(rank, dimension), device)], one_sided)


@pytest.mark.parametrize(
    ("project", "stored"),
    [(project_null_space_, torch.clone), (project_null_space_, by_vector), (planned, torch.clone)],
)
@pytest.mark.parametrize("rank", [1, 8, 16, 17, 64, 65])
@pytest.mark.parametrize(("shape", "flat"), [((21, 72), False), ((19, 75), False), ((1, 210), True), ((3, 72), True)])
def test_ranks_and_forms_across_blocks(
    backend: str, device: torch.device, project: Project, stored: Callable[[Tensor], Tensor], rank: int,
    shape: tuple[int, int], flat: bool,
) -> None:  # fmt: skip
    """In the interpreter a program has 16 rows and 16 columns at a time, or 64 elements in four steps; 65 is PyTorch's.

    Rows of 72 allow wide accesses, the others do not.
    """
    dtypes = DTYPES if rank in (8, 64) else DTYPES[:1]
    basis = stored(orthonormal(shape[0] * shape[1] if flat else shape[1], rank, device))
    check(project, [torch.randn(shape, device=device).to(dtype) for dtype in dtypes], [basis] * len(dtypes), rank == 17)


@pytest.mark.parametrize("rank", [5, 8])
def test_a_vector_of_many_parts(backend: str, device: torch.device, rank: int) -> None:
    """Partial sums are added in tiles of eight parts in the interpreter; here there are 27, and 3 of another tensor."""
    tensors = [torch.randn(27 * 64 - 5, device=device), torch.randn(130, device=device)]
    check(project_null_space_, tensors, [orthonormal(tensor.numel(), rank, device) for tensor in tensors])


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("shape", [(20, 48), (960,)])
def test_half_precision_loses_only_its_own_rounding(
    backend: str, device: torch.device, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    """Of a tensor that lies inside the subspace, only its rounding is left, a small number that has digits of its own.

    Basis or coefficients rounded to half precision would leave as much again.
    """
    basis = orthonormal(shape[-1], 4, device)
    tensor = (torch.randn(*shape[:-1], 4, device=device) @ basis.t()).to(dtype)
    before = tensor.double()
    want = reference.projected(before, basis.double())
    project_null_space_([tensor], [basis])
    assert float((tensor.double() - want).norm()) < PROJECTION_INSIDE[dtype] * float(before.norm())
    coarse = before - before @ basis.to(dtype).double() @ basis.to(dtype).double().t()
    assert float((coarse - want).norm()) > 3 * PROJECTION_INSIDE[dtype] * float(before.norm())


@pytest.mark.parametrize("shape", [(3, 72), (216,)])
def test_coefficients_beyond_the_range_of_float16(backend: str, device: torch.device, shape: tuple[int, ...]) -> None:
    tensor = torch.full(shape, 30000.0, device=device).half()
    basis = torch.full((shape[-1], 1), shape[-1] ** -0.5, device=device)
    assert float((tensor.double().reshape(-1, shape[-1]) @ basis.double()).max()) > torch.finfo(torch.float16).max
    check(project_null_space_, [tensor], [basis])


def mixed_problem(device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
    """Tensors of different shapes, dtypes, ranks and forms: rows, flat, vector, scalar, empty, rank 0, strided."""
    tensors = [
        torch.randn(5, 24, device=device),
        torch.randn(3, 7, device=device).bfloat16(),
        torch.randn(33, device=device),
        torch.randn((), device=device),
        torch.randn(0, 6, device=device),
        torch.randn(4, 10, device=device).half(),
        torch.randn(2, 3, 12, device=device),
        torch.randn(16, 9, device=device).t(),
    ]
    sizes = [(24, 8), (21, 2), (33, 33), (1, 1), (6, 2), (10, 0), (12, 5), (16, 3)]
    return tensors, [orthonormal(*size, device) for size in sizes]


@pytest.mark.parametrize("project", PROJECTS)
@pytest.mark.parametrize("one_sided", [False, True])
def test_tensors_of_different_kinds_together(
    backend: str, device: torch.device, project: Project, one_sided: bool
) -> None:
    tensors, bases = mixed_problem(device)
    check(project, tensors, bases, one_sided)


def test_a_basis_of_other_strides(backend: str, device: torch.device) -> None:
    check(project_null_space_, [torch.randn(4, 24, device=device)], [orthonormal(48, 6, device)[:24, ::2] * 0.5])


@pytest.mark.parametrize("project", PROJECTS)
@pytest.mark.parametrize("rank", [8, 65])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(
    backend: str, device: torch.device, project: Project, rank: int, dtype: torch.dtype
) -> None:
    """With the products in bfloat16, as autocast has them, float32 would be wrong by 1e-3, or the call would fail."""
    tensors = [torch.randn(6, 80, device=device).to(dtype) for _ in range(2)]
    bases = [orthonormal(80, rank, device), orthonormal(480, rank, device)]
    with torch.autocast(device.type, dtype=torch.bfloat16):
        check(project, tensors, bases)


@pytest.mark.parametrize("rank", [8, 65])
def test_strided_tensors(backend: str, device: torch.device, rank: int) -> None:
    """Transposed, columns of a wider matrix, every second row; what lies between stays."""
    wide, tall = torch.randn(5, 100, device=device), torch.randn(12, 80, device=device)
    between = wide[:, 80:].clone(), tall[1::2].clone()
    tensors = [torch.randn(80, 7, device=device).t(), wide[:, :80], tall[::2], torch.randn(6, 30, device=device).t()]
    bases = [orthonormal(80, rank, device) for _ in range(3)] + [orthonormal(180, rank, device)]
    check(project_null_space_, tensors, bases)
    assert torch.equal(wide[:, 80:], between[0])
    assert torch.equal(tall[1::2], between[1])


@pytest.mark.parametrize(
    ("project", "store"),
    [(project_null_space_, torch.clone), (project_null_space_, by_vector), (planned, torch.clone)],
)
@pytest.mark.parametrize("rank", [4, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_long_rows(
    backend: str, device: torch.device, project: Project, store: Callable[[Tensor], Tensor], rank: int, dtype: Any
) -> None:
    """Beyond 1024 or 2048 elements a program takes fewer rows, and half precision goes by slices of columns, too."""
    tensors = [torch.randn(3, columns, device=device).to(dtype) for columns in (2056, 2050)]
    check(project, tensors, [store(orthonormal(tensor.shape[1], rank, device)) for tensor in tensors])


def test_views_of_one_buffer_that_do_not_overlap(backend: str, device: torch.device) -> None:
    buffer = torch.randn(6, 16, device=device)
    check(project_null_space_, list(buffer.split(2)), [orthonormal(16, 3, device) for _ in range(3)])


@pytest.mark.parametrize("project", PROJECTS)
@pytest.mark.parametrize(
    "overlapping",
    [
        lambda buffer: [buffer, buffer],
        lambda buffer: [buffer[:4], buffer[3:]],
        lambda buffer: [buffer[:3], buffer.view(-1)[40:56].view(1, 16)],
        lambda buffer: [buffer[:1].expand(3, 16)],
    ],
)
def test_tensors_that_share_memory_are_refused(
    backend: str, device: torch.device, project: Project, overlapping: Callable[[Tensor], list[Tensor]]
) -> None:
    """Two programs would read and write them at once."""
    buffer = torch.randn(6, 16, device=device)
    before, tensors = buffer.clone(), overlapping(buffer)
    with pytest.raises(ValueError, match=r"tensors\[\d\]: expected (memory of its own|a place for each element)"):
        project(tensors, [orthonormal(16, 3, device)] * len(tensors))
    assert torch.equal(buffer, before)


def test_one_tensor_without_alignment_leaves_wide_accesses_to_the_others(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By group: dtype and alignment are constants of a launch."""
    monkeypatch.setenv("SAFE_KERNELS_BACKEND", "triton")
    launched: list[dict[str, Any]] = []
    real = _triton.launch

    def noting(kernel: Any, grid: int, *arguments: Any, **options: Any) -> None:
        launched.append({"grid": grid, **options})
        real(kernel, grid, *arguments, **options)

    monkeypatch.setattr(_triton, "launch", noting)
    buffer = torch.randn(2 * 16 + 1, device=device)
    assert buffer.data_ptr() % 16 == 0
    tensors = [
        torch.randn(2, 16, device=device),
        buffer[1:].view(2, 16),  # begins 4 bytes later
        torch.randn(2, 12, device=device),  # rows of 48 bytes
        torch.randn(2, 10, device=device),  # rows of 40 bytes, which is no multiple of 16
        torch.randn(2, 16, device=device),
        torch.randn(2, 16, device=device).bfloat16(),
        torch.randn(2, 12, device=device).bfloat16(),  # rows of 24 bytes
    ]
    bases = [orthonormal(tensor.shape[1], 4, device) for tensor in tensors]
    check(project_null_space_, tensors, bases)
    found = {(str(options["X"]), options["ALIGNED"], options["grid"]) for options in launched}
    assert found == {("fp32", True, 3), ("fp32", False, 2), ("bf16", True, 1), ("bf16", False, 1)}


def test_projector_is_idempotent_symmetric_and_does_not_grow(backend: str, device: torch.device) -> None:
    basis = orthonormal(40, 7, device)
    left, right = torch.randn(3, 40, device=device), torch.randn(3, 40, device=device)
    once_left, once_right = left.clone(), right.clone()
    project_null_space_([once_left, once_right], [basis, basis])
    twice = once_left.clone()
    project_null_space_([twice], [basis])
    assert relative_error(twice, once_left) < PROJECTION[torch.float32]
    torch.testing.assert_close((once_left * right).sum(-1), (left * once_right).sum(-1), rtol=1e-5, atol=1e-5)
    assert (once_left.norm(dim=-1) <= left.norm(dim=-1)).all()
    assert float((once_left @ basis).norm()) < PROJECTION[torch.float32] * float(left.norm())


def test_rank_zero_leaves_every_bit(backend: str, device: torch.device) -> None:
    tensor = torch.randn(5, 9, device=device)
    before = tensor.clone()
    project_null_space_([tensor], [torch.empty(9, 0, device=device)])
    assert torch.equal(tensor, before)


def test_full_rank_freezes(backend: str, device: torch.device) -> None:
    tensor = torch.randn(5, 9, device=device)
    norm = float(tensor.norm())
    project_null_space_([tensor], [orthonormal(9, 9, device)])
    assert float(tensor.norm()) < PROJECTION[torch.float32] * norm


def test_one_sided_keeps_negative_coefficients(backend: str, device: torch.device) -> None:
    basis = torch.eye(4, device=device)[:, :2].contiguous()
    tensor = torch.tensor([[3.0, -2.0, 1.0, -1.0]], device=device)
    project_null_space_([tensor], [basis], one_sided=True)
    torch.testing.assert_close(tensor, torch.tensor([[0.0, -2.0, 1.0, -1.0]], device=device))


def test_row_form_keeps_a_layers_outputs(backend: str, device: torch.device) -> None:
    """Projected by its inputs' subspace, an update of a layer does not move the layer's outputs on those inputs."""
    inputs = torch.randn(6, 30, device=device)
    basis = torch.linalg.qr(inputs.double().t())[0].float()
    update = torch.randn(12, 30, device=device)
    plain = update.clone()
    project_null_space_([update], [basis])
    assert float((inputs @ update.t()).norm()) < 1e-5 * float((inputs @ plain.t()).norm())


def test_parameters_are_projected_in_place(backend: str, device: torch.device) -> None:
    parameter = torch.nn.Parameter(torch.randn(3, 8, device=device))
    basis = orthonormal(8, 2, device)
    project_null_space_([parameter], [basis])
    assert float((parameter.detach() @ basis).norm()) < 1e-5


def share_inside(update: Tensor, basis: Tensor) -> float:
    """Share of an update's norm that lies in the protected subspace."""
    return float((update.double() @ basis.double()).norm() / update.double().norm().clamp_min(1e-30))


OPTIMIZERS: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9, weight_decay=0.1),
    "adamw": lambda params: torch.optim.AdamW(params, lr=0.01, weight_decay=0.1),
}


def worst_share(
    optimizer_name: str, device: torch.device, project_update: bool, basis: Tensor, enabled_from: int = 0
) -> float:
    """Train a layer with clipping and gradient accumulation; largest share of a step's update inside the basis."""
    weight = torch.nn.Parameter(torch.randn(6, 16, device=device))
    optimizer = OPTIMIZERS[optimizer_name]([weight])
    worst = 0.0
    for step in range(8):
        optimizer.zero_grad()
        for _ in range(2):
            inputs = torch.randn(4, 16, device=device)
            ((inputs @ weight.t()).tanh() - 1.0).square().mean().backward()
        torch.nn.utils.clip_grad_norm_([weight], 0.5)
        old = weight.detach().clone()
        if not project_update and weight.grad is not None:
            project_null_space_([weight.grad], [basis])
        optimizer.step()
        if step < enabled_from:
            continue
        if project_update:
            update = weight.detach() - old
            project_null_space_([update], [basis])
            weight.data.copy_(old + update)
        worst = max(worst, share_inside(weight.detach() - old, basis))
    return worst


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("enabled_from", [0, 4])
def test_projected_updates_stay_outside_after_every_step(
    backend: str, device: torch.device, optimizer: str, enabled_from: int
) -> None:
    # theta_old + update rounds theta, which is 1e2 times the update.
    assert worst_share(optimizer, device, True, orthonormal(16, 5, device), enabled_from) < 1e-4


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_projected_gradients_leak(backend: str, device: torch.device, optimizer: str) -> None:
    """Negative control: momentum is clean, but weight decay and AdamW's division turn the step back inside."""
    assert worst_share(optimizer, device, False, orthonormal(16, 5, device)) > 1e-2


@pytest.mark.parametrize(
    ("tensors", "bases", "error", "message"),
    [
        ([torch.zeros(2, 4)], [], ValueError, "bases: expected 1 entries, one for each of tensors, got 0"),
        ([torch.zeros(2, 4).long()], [torch.eye(4)], TypeError, r"tensors\[0\]: expected dtype"),
        ([torch.zeros(2, 4)], [torch.eye(4).half()], TypeError, r"bases\[0\]: expected dtype"),
        ([torch.zeros(2, 4)], [torch.zeros(4)], ValueError, r"bases\[0\]: expected shape \[d, r\]"),
        ([torch.zeros(2, 4)], [torch.zeros(5, 1)], ValueError, r"expected 4 rows \(row form\) or 8 rows \(flat form\)"),
        ([torch.zeros(2, 4)], [torch.zeros(4, 5)], ValueError, "expected rank at most its dimension 4, got rank 5"),
        ([torch.zeros(2, 4)], [torch.zeros(4, 1, device="meta")], ValueError, r"bases\[0\]: expected the device"),
    ],
)
def test_bad_input_names_the_argument(
    tensors: list[Tensor], bases: list[Tensor], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        project_null_space_(tensors, bases)


def test_a_basis_that_is_not_orthonormal_is_found_on_request() -> None:
    tensor, basis = torch.randn(2, 6), orthonormal(6, 3)
    project_null_space_([tensor], [basis], check_orthonormal=True)
    project_null_space_([tensor], [torch.empty(6, 0)], check_orthonormal=True)
    with pytest.raises(ValueError, match=r"bases\[0\]: expected orthonormal columns"):
        project_null_space_([tensor], [1.01 * basis], check_orthonormal=True)


def test_orthonormal_to_the_last_bit_is_within_every_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    """The border itself is allowed, and what is beyond it by the least is not."""
    monkeypatch.setattr(api, "_ORTHONORMAL_TOLERANCE", 0.0)
    basis = torch.eye(6)[:, :3].contiguous()
    project_null_space_([torch.randn(2, 6)], [basis], check_orthonormal=True)
    basis[0, 0] = 1.0 + 2.0**-23
    with pytest.raises(ValueError, match=r"bases\[0\]: expected orthonormal columns"):
        project_null_space_([torch.randn(2, 6)], [basis], check_orthonormal=True)
