"""Bases against the singular value decomposition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from safe_kernels import Basis, FrequentDirections, covariance_basis, gram_basis
from tests.tolerances import ORTHONORMAL, SUBSPACE


def low_rank(n: int, d: int, rank: int, noise: float = 1e-3) -> Tensor:
    """Rows with `rank` directions of singular values from 8 sqrt(n) downwards and weak noise."""
    left = torch.linalg.qr(torch.randn(n, rank, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(d, rank, dtype=torch.float64))[0]
    strengths = torch.linspace(8.0, 4.0, rank, dtype=torch.float64) * n**0.5
    return (left * strengths @ right.T + noise * torch.randn(n, d, dtype=torch.float64)).float()


def top_directions(rows: Tensor, rank: int) -> Tensor:
    """First right singular vectors, by the full decomposition in float64."""
    return torch.linalg.svd(rows.double(), full_matrices=False).Vh[:rank].T


def second_moment(rows: Tensor) -> Tensor:
    """Sum of the rows' outer products in float64."""
    return rows.double().T @ rows.double()


def largest_sine(left: Tensor, right: Tensor) -> float:
    """Sine of the largest principal angle between two subspaces."""
    left, right = left.double(), right.double()
    return float(torch.linalg.matrix_norm(left - right @ (right.T @ left), ord=2))


def assert_orthonormal(basis: Basis) -> None:
    vectors = basis.vectors.double()
    error = (vectors.T @ vectors - torch.eye(basis.rank, dtype=torch.float64)).abs()
    assert basis.rank == 0 or error.max() < ORTHONORMAL[basis.vectors.dtype]


def captured(rows: Tensor, vectors: Tensor) -> float:
    """Share of the rows' energy in the span of orthonormal vectors."""
    return float((rows.double() @ vectors.double()).norm() ** 2 / rows.double().norm() ** 2)


@pytest.mark.parametrize("shape", [(20, 300), (300, 20), (20, 20)])
def test_gram_basis_equals_svd(shape: tuple[int, int]) -> None:
    rows = low_rank(*shape, rank=5)
    basis = gram_basis(rows, rank=5)
    assert_orthonormal(basis)
    assert largest_sine(basis.vectors, top_directions(rows, 5)) < SUBSPACE[torch.float32]
    assert basis.captured_energy == pytest.approx(captured(rows, basis.vectors), rel=1e-5)
    torch.testing.assert_close(basis.singular_values, torch.linalg.svdvals(rows)[:5], rtol=1e-4, atol=1e-4)


def of_two_directions(weak: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Six rows of singular values 1 and ``weak``, and their directions [400, 2]."""
    right = torch.linalg.qr(torch.randn(400, 2, dtype=torch.float64))[0]
    left = torch.linalg.qr(torch.randn(6, 2, dtype=torch.float64))[0]
    return (left * torch.tensor([1.0, weak], dtype=torch.float64) @ right.T).float(), right


def test_weak_directions_are_measured_because_the_gram_matrix_is_float64() -> None:
    """Negative control: singular values 1 and 1e-5; a float32 Gram matrix does not see the second."""
    rows, right = of_two_directions(1e-5)
    basis = gram_basis(rows, rank=2)
    assert_orthonormal(basis)
    assert largest_sine(basis.vectors, right) < 1e-2
    assert basis.singular_values[1].item() == pytest.approx(1e-5, rel=1e-2)
    from_float32 = torch.linalg.eigvalsh(rows @ rows.T)[-2].clamp_min(0.0).sqrt()
    assert from_float32.item() != pytest.approx(1e-5, rel=0.5)


def test_covariance_basis_equals_svd() -> None:
    rows = low_rank(200, 24, rank=4)
    basis = covariance_basis(rows.T @ rows, rank=4)
    assert_orthonormal(basis)
    assert largest_sine(basis.vectors, top_directions(rows, 4)) < SUBSPACE[torch.float32]
    assert basis.captured_energy == pytest.approx(captured(rows, basis.vectors), rel=1e-5)


@pytest.mark.parametrize("energy", [0.3, 0.9, 0.99, 1.0])
def test_energy_target_is_reached_with_as_few_vectors_as_possible(energy: float) -> None:
    rows = torch.randn(12, 40)
    squares = torch.linalg.svdvals(rows.double()).square()
    fewest = int((squares.cumsum(0) / squares.sum() < energy * (1 - 1e-9)).sum()) + 1
    for basis in (gram_basis(rows, energy=energy), covariance_basis(second_moment(rows), energy=energy)):
        assert basis.rank == fewest
        assert basis.captured_energy >= energy * (1 - 1e-9)


def test_rank_caps_the_energy_target() -> None:
    assert gram_basis(torch.randn(12, 40), rank=3, energy=0.99).rank == 3


@settings(max_examples=60, deadline=None)
@given(n=st.integers(0, 9), d=st.integers(1, 12), true_rank=st.integers(0, 3), rank=st.integers(0, 12))
def test_fewer_directions_than_asked_for_give_fewer_vectors(n: int, d: int, true_rank: int, rank: int) -> None:
    exact = torch.randn(n, true_rank, dtype=torch.float64) @ torch.randn(true_rank, d, dtype=torch.float64)
    rows = exact.float()
    sketch = FrequentDirections(d, min(5, d))
    sketch.update(rows)
    bases = [
        gram_basis(rows, rank=min(rank, d)),
        covariance_basis(second_moment(exact), rank=min(rank, d)),
        sketch.basis(rank=min(rank, d, 5)),
    ]
    for basis in bases:
        assert basis.rank <= min(n, d, true_rank, rank)
        assert basis.vectors.isfinite().all()
        assert 0.0 <= basis.captured_energy <= 1.0
        assert_orthonormal(basis)


def test_zero_rows_have_no_basis() -> None:
    sketch = FrequentDirections(6, 2)
    sketch.update(torch.zeros(9, 6))
    for basis in (gram_basis(torch.zeros(9, 6)), covariance_basis(torch.zeros(6, 6)), sketch.basis()):
        assert basis.rank == 0
        assert basis.captured_energy == 0.0
    assert sketch.sample_count == 9


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rows_give_a_float32_basis(dtype: torch.dtype) -> None:
    rows = low_rank(10, 50, rank=2).to(dtype)
    sketch = FrequentDirections(50, 2)
    sketch.update(rows)
    for basis in (gram_basis(rows, rank=2), sketch.basis()):
        assert basis.vectors.dtype == torch.float32
        assert largest_sine(basis.vectors, top_directions(rows.float(), 2)) < 1e-2


def test_autocast_changes_no_bit() -> None:
    rows = low_rank(40, 50, rank=3, noise=0.1)

    def bases() -> list[Tensor]:
        sketch = FrequentDirections(50, 4)
        sketch.update(rows)
        return [basis.vectors for basis in (gram_basis(rows, rank=3), sketch.basis(), covariance_basis(moment, rank=3))]

    moment = rows.T @ rows
    expected = bases()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (rows @ rows.T).dtype == torch.bfloat16  # it would act
        found = bases()
    assert all(map(torch.equal, found, expected))


def test_orientation_follows_a_direction() -> None:
    rows = torch.randn(8, 20) + 1.0
    mean = rows.mean(0)
    basis = gram_basis(rows, rank=4)
    for direction in (mean, -mean):
        oriented = basis.oriented(direction)
        assert (direction @ oriented.vectors >= 0).all()
        assert largest_sine(oriented.vectors, basis.vectors) < 1e-5


def test_bad_input_names_the_argument() -> None:
    with pytest.raises(ValueError, match="rows: expected finite values"):
        gram_basis(torch.full((3, 6), float("inf")))
    with pytest.raises(ValueError, match=r"energy: expected a share in \(0, 1\], got 1.5"):
        gram_basis(torch.zeros(3, 6), energy=1.5)
    with pytest.raises(ValueError, match=r"cov: expected shape \[3, 3\], got \[3, 6\]"):
        covariance_basis(torch.zeros(3, 6))
