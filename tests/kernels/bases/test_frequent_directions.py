"""The sketch against its published bound and the singular value decomposition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from safe_kernels import FrequentDirections, gram_basis
from tests.kernels.bases.test_basis import (
    assert_orthonormal,
    captured,
    largest_sine,
    low_rank,
    of_two_directions,
    top_directions,
)


def test_a_sketch_sees_weak_directions_down_to_the_rounding_of_its_rows() -> None:
    """Of singular values, not of their squares: 1e-4 is measured, and 1e-7 may be rounding."""
    for weak, expected in ((1e-4, 2), (1e-7, 1)):
        rows, right = of_two_directions(weak)
        sketch = FrequentDirections(400, 4)
        sketch.update(rows)
        basis = sketch.basis()
        assert basis.vectors.shape[1] == expected
        assert largest_sine(basis.vectors, right[:, :expected]) < 1e-2


def assert_bound(rows: Tensor, sketch: FrequentDirections) -> None:
    """0 <= G^T G - S^T S <= ||G - G_k||_F^2 / (l + 1 - k) for every k <= l."""
    g, s = rows.double(), sketch.sketch.double()
    eigenvalues = torch.linalg.eigvalsh(g.T @ g - s.T @ s)
    squares = torch.linalg.svdvals(g).square()
    slack = 1e-5 * float(squares.sum())
    tails = [float(squares[k:].sum()) / (sketch.rank + 1 - k) for k in range(sketch.rank + 1)]
    assert eigenvalues.min() >= -slack
    assert eigenvalues.max() <= min(tails) + slack


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(0, 60),
    d=st.integers(2, 20),
    rank=st.integers(1, 6),
    batch=st.integers(1, 17),
    seed=st.integers(0, 99),
)
def test_sketch_obeys_its_bound(n: int, d: int, rank: int, batch: int, seed: int) -> None:
    torch.manual_seed(seed)
    rows = torch.randn(n, d) * torch.logspace(0, -2, d)
    sketch = FrequentDirections(d, min(rank, d))
    for part in rows.split(batch):
        sketch.update(part)
    assert sketch.sample_count == n
    assert_bound(rows, sketch)


def test_keeping_the_last_rows_breaks_the_bound() -> None:
    """Negative control: a buffer of the most recent rows is no sketch."""
    rows = torch.randn(80, 12)
    rows[:40, 0] += 10.0
    sketch = FrequentDirections(12, 4)
    sketch.update(rows[-8:])
    with pytest.raises(AssertionError):
        assert_bound(rows, sketch)


def test_directions_that_keep_coming_are_not_lost_to_the_first_ones() -> None:
    """Truncating without shrinking would keep the first, slightly stronger directions forever."""
    identity = torch.eye(6)
    sketch = FrequentDirections(6, 3)
    rows = torch.cat([1.1 * identity[:3], 1.1 * identity[:3], *([identity[3:]] * 40)])
    for part in rows.split(3):
        sketch.update(part)
    assert_bound(rows, sketch)


def test_merged_sketches_obey_the_bound_of_all_rows() -> None:
    rows = torch.randn(90, 15) * torch.logspace(0, -1, 15)
    parts = [FrequentDirections(15, 4) for _ in range(3)]
    for part, chunk in zip(parts, rows.split(30), strict=True):
        part.update(chunk)
    parts[0].merge(parts[1])
    parts[0].merge(parts[2])
    assert parts[0].sample_count == 90
    assert parts[0].energy == pytest.approx(float(rows.double().norm() ** 2), rel=1e-6)
    assert_bound(rows, parts[0])


def test_sketch_finds_the_subspace_and_bounds_its_energy_from_below() -> None:
    rows = low_rank(200, 120, rank=3, noise=0.05)
    sketch = FrequentDirections(120, 6)
    for part in rows.split(7):
        sketch.update(part)
    basis = sketch.basis(rank=3)
    truth = captured(rows, basis.vectors)
    assert_orthonormal(basis)
    assert largest_sine(basis.vectors, top_directions(rows, 3)) < 0.05
    assert 0.8 * truth < basis.captured_energy <= truth * (1 + 1e-6)


def test_few_rows_are_kept_exactly() -> None:
    rows = torch.randn(6, 40)
    sketch = FrequentDirections(40, 3)
    sketch.update(rows)
    assert torch.equal(sketch.sketch, rows)
    assert sketch.basis().captured_energy == pytest.approx(gram_basis(rows, rank=3).captured_energy, rel=1e-6)


def test_resumed_sketch_has_the_same_bits() -> None:
    rows = torch.randn(40, 12)
    whole, first, second = (FrequentDirections(12, 3) for _ in range(3))
    whole.update(rows[:17])
    first.update(rows[:17])
    second.load_state_dict(first.state_dict())
    for sketch in (whole, second):
        sketch.update(rows[17:])
    assert torch.equal(whole.sketch, second.sketch)
    assert (whole.sample_count, whole.energy) == (second.sample_count, second.energy)


def test_bad_input_names_the_argument() -> None:
    sketch = FrequentDirections(6, 2)
    with pytest.raises(ValueError, match=r"rows: expected shape \[3, 6\], got \[3, 5\]"):
        sketch.update(torch.zeros(3, 5))
    with pytest.raises(TypeError, match="rows: expected dtype"):
        sketch.update(torch.zeros(3, 6).long())
    with pytest.raises(ValueError, match="rows: expected finite values"):
        sketch.update(torch.full((3, 6), float("nan")))
    with pytest.raises(ValueError, match="rank: expected a number from 0 to the dimension 2, got 3"):
        sketch.basis(rank=3)
    with pytest.raises(ValueError, match="other: expected dim 6 and rank 2, got dim 6 and rank 3"):
        sketch.merge(FrequentDirections(6, 3))
    with pytest.raises(ValueError, match=r"state\['rank'\]: expected 2, got 3"):
        sketch.load_state_dict(FrequentDirections(6, 3).state_dict())
    with pytest.raises(ValueError, match="rank: expected a number from 0 to the dimension 4, got 5"):
        FrequentDirections(4, 5)
