"""The null-space projection: its algebra, its forms, and what it does to optimizer steps, for both backends."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from safe_kernels import project_null_space_
from safe_kernels.null_space import reference
from tests.tolerances import PROJECTION, relative_error


def orthonormal(dimension: int, rank: int, device: torch.device | str = "cpu") -> Tensor:
    """A random orthonormal basis [d, r]."""
    return torch.linalg.qr(torch.randn(dimension, rank, dtype=torch.float64, device=device))[0].float()


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
    basis = orthonormal(dimension, min(rank, dimension), device)
    want = reference.projected(tensor.double(), basis.double(), one_sided)
    before = tensor.double()
    project_null_space_([tensor], [basis], one_sided=one_sided)
    assert float((tensor.double() - want).norm()) <= PROJECTION[dtype] * max(float(before.norm()), 1e-30)


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


@pytest.mark.parametrize("one_sided", [False, True])
def test_tensors_of_different_kinds_together(backend: str, device: torch.device, one_sided: bool) -> None:
    tensors, bases = mixed_problem(device)
    before = [tensor.double() for tensor in tensors]
    project_null_space_(tensors, bases, one_sided=one_sided)
    for tensor, basis, start in zip(tensors, bases, before, strict=True):
        want = reference.projected(start, basis.double(), one_sided)
        assert float((tensor.double() - want).norm()) <= PROJECTION[tensor.dtype] * float(start.norm())


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
