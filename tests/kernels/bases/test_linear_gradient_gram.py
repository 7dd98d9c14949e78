"""Subspaces of per-sample weight gradients from inputs and output gradients, against gradients formed in float64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from safe_kernels import FrequentDirections, LinearGradientGram
from tests.tolerances import GRAM, ORTHONORMAL, SUBSPACE, relative_error

Samples = list[tuple[Tensor, Tensor]]

FEW_TOKENS = (3, 2, 40, 30)
"""Samples, tokens, inputs, outputs: kept as tokens, products of pairs of tokens."""
MANY_TOKENS = (3, 9, 40, 30)
"""Kept as tokens, gradients formed for some outputs at a time."""
MORE_TOKENS = (3, 25, 40, 30)
"""Kept as gradients."""
SHAPES = [FEW_TOKENS, MANY_TOKENS, MORE_TOKENS, (5, 1, 7, 300), (40, 3, 4, 3), (1, 1, 1, 1)]


def samples(shape: tuple[int, int, int, int], dtype: torch.dtype = torch.float32, updates: int = 4) -> Samples:
    """Inputs and output gradients of some updates; samples share directions, of falling strength."""
    count, tokens, in_features, out_features = shape
    strengths = torch.logspace(1, -1, count * updates, dtype=torch.float64)
    found = []
    for part in strengths.split(count):
        inputs = torch.randn(count, tokens, in_features, dtype=torch.float64) + 0.5
        grad_outputs = part[:, None, None] * (torch.randn(count, tokens, out_features, dtype=torch.float64) + 0.5)
        found.append((inputs.to(dtype), grad_outputs.to(dtype)))
    return found


def accumulated(given: Samples) -> LinearGradientGram:
    gram = LinearGradientGram(given[0][0].shape[2], given[0][1].shape[2])
    for inputs, grad_outputs in given:
        gram.update(inputs, grad_outputs)
    return gram


def gradients(given: Samples) -> Tensor:
    """Flat gradients [n, o i] in float64, from the definition."""
    rows = [
        sum(torch.outer(g, x) for x, g in zip(sample.double(), grads.double(), strict=True))
        for inputs, grad_outputs in given
        for sample, grads in zip(inputs, grad_outputs, strict=True)
    ]
    return torch.stack([torch.as_tensor(row) for row in rows]).flatten(1)


def subspace(rows: Tensor, rank: int) -> Tensor:
    """The best one, by the full decomposition in float64."""
    return torch.linalg.svd(rows, full_matrices=False).Vh[:rank].T


def largest_sine(one: Tensor, other: Tensor) -> float:
    one, other = one.double(), other.double()
    return float(torch.linalg.matrix_norm(one - other @ (other.T @ one), ord=2))


def without_cross_tokens(given: Samples) -> Tensor:
    """Wrong: only products of tokens at the same place, `sum_t (a[n,t] . a[m,t]) (d[n,t] . d[m,t])`."""
    inputs = torch.cat([x for x, _ in given]).double()
    grad_outputs = torch.cat([g for _, g in given]).double()
    return torch.einsum("nti,mti,nto,mto->nm", inputs, inputs, grad_outputs, grad_outputs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_gram_matrix_is_that_of_the_gradients(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    found = samples(shape, dtype)
    rows = gradients(found)
    gram = accumulated(found).gram()
    assert gram.dtype == torch.float64
    assert torch.equal(gram, gram.T)
    tolerance = GRAM[torch.float64 if dtype == torch.float64 else torch.float32]
    assert relative_error(gram, rows @ rows.T) < tolerance


def test_negative_control_products_of_tokens_at_one_place_are_another_matrix() -> None:
    found = samples(FEW_TOKENS, torch.float64)
    rows = gradients(found)
    assert relative_error(accumulated(found).gram(), rows @ rows.T) < GRAM[torch.float64]
    assert relative_error(without_cross_tokens(found), rows @ rows.T) > 1e4 * GRAM[torch.float32]
    one_token = samples((3, 1, 40, 30), torch.float64)  # where there is one token there are no others to cross
    rows = gradients(one_token)
    assert relative_error(without_cross_tokens(one_token), rows @ rows.T) < GRAM[torch.float64]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_basis_is_the_best_subspace(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    found = samples(shape, dtype)
    rows = gradients(found)
    rank = min(4, *rows.shape)
    basis = accumulated(found).basis(rank=rank)
    values = torch.linalg.svdvals(rows)
    assert basis.vectors.dtype == dtype
    assert basis.vectors.shape == (rows.shape[1], rank)
    identity = torch.eye(rank, dtype=torch.float64)
    assert (basis.vectors.double().T @ basis.vectors.double() - identity).abs().max() < ORTHONORMAL[dtype]
    assert largest_sine(basis.vectors, subspace(rows, rank)) < SUBSPACE[dtype]
    assert relative_error(basis.singular_values, values[:rank]) < GRAM[dtype]
    energy = float((values[:rank] ** 2).sum() / (values**2).sum())
    assert basis.captured_energy == pytest.approx(energy, rel=10 * GRAM[dtype])


@pytest.mark.parametrize("shape", [FEW_TOKENS, MANY_TOKENS, MORE_TOKENS])
def test_it_is_closer_than_a_sketch_of_the_same_rank(shape: tuple[int, int, int, int]) -> None:
    found = samples(shape, updates=16)
    rows, rank = gradients(found), 4
    sketch = FrequentDirections(rows.shape[1], 2 * rank)
    sketch.update(rows)
    best = subspace(rows, rank)
    exact = largest_sine(accumulated(found).basis(rank=rank).vectors, best)
    assert exact < SUBSPACE[torch.float32]
    assert largest_sine(sketch.basis(rank=rank).vectors, best) > 100 * exact


@pytest.mark.parametrize("tokens", [2, 9, 25])
def test_weak_directions_are_found(tokens: int) -> None:
    """Two samples that differ by 1e-5: float32 cannot tell the square of that beside the square of what they share."""
    inputs, grad_outputs = torch.randn(1, tokens, 40).repeat(2, 1, 1), torch.randn(1, tokens, 30).repeat(2, 1, 1)
    grad_outputs[1] += 1e-5 * torch.randn(tokens, 30)
    found = [(inputs, grad_outputs)]
    rows = gradients(found)
    basis = accumulated(found).basis()
    assert basis.rank == 2
    assert largest_sine(basis.vectors, subspace(rows, 2)) < 0.05
    assert basis.singular_values[1].item() == pytest.approx(float(torch.linalg.svdvals(rows)[1]), rel=0.05)
    from_float32 = torch.linalg.eigvalsh(rows.float() @ rows.float().T)[0].clamp_min(0.0).sqrt()
    assert from_float32.item() != pytest.approx(float(torch.linalg.svdvals(rows)[1]), rel=0.5)


@pytest.mark.parametrize("shape", [FEW_TOKENS, MANY_TOKENS, MORE_TOKENS])
def test_vectors_point_along_the_mean_gradient(shape: tuple[int, int, int, int]) -> None:
    found = samples(shape)
    mean = gradients(found).mean(dim=0)
    gram = accumulated(found)
    oriented, plain = gram.basis(rank=6, oriented=True), gram.basis(rank=6)
    products = mean @ oriented.vectors.double()
    assert (products > 0).all()
    assert torch.allclose((mean @ plain.vectors.double()).abs(), products, rtol=1e-4)
    assert torch.allclose(plain.oriented(mean).vectors, oriented.vectors, atol=1e-5)


def test_gradients_are_those_of_autograd() -> None:
    """A layer that is captured as a training loop would capture it, against a backward pass for each sample."""
    layer, head = nn.Linear(6, 5, bias=False), torch.randn(5)
    inputs = torch.randn(4, 3, 6)
    outputs = layer(inputs)
    (grad_outputs,) = torch.autograd.grad(outputs.tanh() @ head @ torch.ones(3) @ torch.ones(4), outputs)
    rows = [torch.autograd.grad((layer(x).tanh() @ head).sum(), layer.weight)[0].flatten() for x in inputs]
    gram = LinearGradientGram(6, 5)
    gram.update(inputs, grad_outputs)
    expected = torch.stack(rows).double()
    assert relative_error(gram.gram(), expected @ expected.T) < GRAM[torch.float32]


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), min_size=1, max_size=4),
    in_features=st.integers(1, 9),
    out_features=st.integers(1, 9),
    rank=st.integers(0, 12),
    seed=st.integers(0, 99),
)
def test_of_any_shapes(
    counts: list[tuple[int, int]], in_features: int, out_features: int, rank: int, seed: int
) -> None:
    """Samples of any number and length, none and empty ones too, in any updates."""
    generator = torch.Generator().manual_seed(seed)
    gram, found = LinearGradientGram(in_features, out_features), []
    for count, tokens in counts:
        inputs = torch.randn(count, tokens, in_features, generator=generator, dtype=torch.float64)
        grad_outputs = torch.randn(count, tokens, out_features, generator=generator, dtype=torch.float64)
        gram.update(inputs, grad_outputs)
        found.append(torch.einsum("nto,nti->noi", grad_outputs, inputs).flatten(1))
    rows = torch.cat(found)
    assert gram.sample_count == len(rows)
    assert torch.allclose(gram.gram(), rows @ rows.T, rtol=1e-9, atol=1e-9)
    basis = gram.basis(rank=min(rank, rows.shape[1]))
    assert basis.rank == min(rank, int(torch.linalg.matrix_rank(rows, rtol=1e-7)))
    outside = rows - rows @ basis.vectors @ basis.vectors.T
    best = torch.linalg.svdvals(rows)[basis.rank :].square().sum()
    assert outside.square().sum() == pytest.approx(float(best), abs=1e-9 + 1e-9 * float(rows.square().sum()))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), tokens=st.integers(1, 12), extra=st.integers(0, 3))
def test_order_padding_and_updates_do_not_matter(seed: int, tokens: int, extra: int) -> None:
    torch.manual_seed(seed)
    inputs, grad_outputs = torch.randn(6, tokens, 8), torch.randn(6, tokens, 5)
    whole = accumulated([(inputs, grad_outputs)])
    order = torch.randperm(6)
    padded = (
        torch.cat([inputs, torch.randn(6, extra, 8)], dim=1),
        torch.cat([grad_outputs, torch.zeros(6, extra, 5)], 1),
    )
    split = accumulated([(padded[0][order][part], padded[1][order][part]) for part in (slice(0, 2), slice(2, 6))])
    assert relative_error(split.gram(), whole.gram()[order][:, order]) < GRAM[torch.float32]
    squares = whole.basis().singular_values.double()
    assert relative_error(split.basis().singular_values, squares) < 10 * GRAM[torch.float32]


@pytest.mark.parametrize("shape", [FEW_TOKENS, MANY_TOKENS, MORE_TOKENS])
def test_a_scaled_loss_scales_the_singular_values_alone(shape: tuple[int, int, int, int]) -> None:
    found = samples(shape)
    plain, scaled = (accumulated([(x, c * g) for x, g in found]).basis(rank=5) for c in (1.0, 4.0))
    assert torch.allclose(scaled.singular_values, 4 * plain.singular_values, rtol=1e-6)
    assert largest_sine(scaled.vectors, plain.vectors) < SUBSPACE[torch.float32]
    assert scaled.captured_energy == pytest.approx(plain.captured_energy)


@pytest.mark.parametrize("energy", [0.3, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("shape", [FEW_TOKENS, MANY_TOKENS])
def test_energy_target_is_reached_with_as_few_vectors_as_possible(
    shape: tuple[int, int, int, int], energy: float
) -> None:
    found = samples(shape, torch.float64)
    squares = torch.linalg.svdvals(gradients(found)).square()
    fewest = int((squares.cumsum(0) / squares.sum() < energy * (1 - 1e-9)).sum()) + 1
    basis = accumulated(found).basis(energy=energy)
    assert basis.rank == fewest
    assert basis.captured_energy >= energy * (1 - 1e-9)
    assert accumulated(found).basis(rank=2, energy=energy).rank == min(2, fewest)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_kept_is_the_smaller_of_tokens_and_gradients(
    shape: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    count, tokens, in_features, out_features = shape
    found = samples(shape, dtype, updates=2)
    of_tokens = tokens * (in_features + out_features) * dtype.itemsize
    of_gradients = in_features * out_features * 4
    assert accumulated(found).nbytes == 2 * count * min(of_tokens, of_gradients)


def test_all_ways_are_taken() -> None:
    """The shapes above reach each of the three ways; otherwise the tests would say less than they seem to."""
    few, many, more = (accumulated(samples(shape)) for shape in (FEW_TOKENS, MANY_TOKENS, MORE_TOKENS))
    tokens = few._tokens()
    assert tokens
    assert few._pairs_are_less_work(tokens)
    tokens = many._tokens()
    assert tokens
    assert not many._pairs_are_less_work(tokens)
    assert more._tokens() is None


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [accumulated(samples(shape)) for shape in (FEW_TOKENS, MANY_TOKENS, MORE_TOKENS)]
    whole = [(gram.gram(), gram.basis(rank=5)) for gram in expected]
    for name, size in (("_FORMED", 64), ("_FORMED_OUTPUTS", 3), ("_TOKENS", 4)):
        monkeypatch.setattr(f"safe_kernels.bases.linear_gradient_gram.{name}", size)
    for name, size in (("_ELEMENTS", 32), ("_ROTATED", 40)):
        monkeypatch.setattr(f"safe_kernels.bases.spectrum.{name}", size)
    for gram, (matrix, basis) in zip(expected, whole, strict=True):
        assert relative_error(gram.gram(), matrix) < GRAM[torch.float32]
        assert largest_sine(gram.basis(rank=5).vectors, basis.vectors) < SUBSPACE[torch.float32]


def test_the_same_samples_give_the_same_bits() -> None:
    for shape in (FEW_TOKENS, MANY_TOKENS, MORE_TOKENS):
        found = samples(shape)
        first, second = (accumulated(found).basis(rank=5) for _ in range(2))
        assert torch.equal(first.vectors, second.vectors)


@pytest.mark.parametrize("shape", [FEW_TOKENS, MANY_TOKENS, MORE_TOKENS])
def test_autocast_changes_no_bit(shape: tuple[int, int, int, int]) -> None:
    found = samples(shape)
    expected = accumulated(found).basis(rank=5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16  # it would act
        basis = accumulated(found).basis(rank=5)
    assert torch.equal(basis.vectors, expected.vectors)
    assert basis.captured_energy == expected.captured_energy


def test_zero_gradients_have_no_basis() -> None:
    gram = LinearGradientGram(4, 3)
    gram.update(torch.randn(5, 2, 4), torch.zeros(5, 2, 3))
    basis = gram.basis()
    assert basis.vectors.shape == (12, 0)
    assert basis.captured_energy == 0.0


def test_non_contiguous_views_are_read_in_place() -> None:
    inputs, grad_outputs = torch.randn(9, 3, 4).transpose(0, 1)[..., ::2], torch.randn(5, 9, 3).permute(2, 1, 0)
    found = [(inputs, grad_outputs)]
    rows = gradients(found)
    assert relative_error(accumulated(found).gram(), rows @ rows.T) < GRAM[torch.float32]


def test_bad_input_names_the_argument() -> None:
    gram = LinearGradientGram(4, 3)
    with pytest.raises(ValueError, match="basis: expected samples, got none"):
        gram.basis()
    with pytest.raises(ValueError, match=r"inputs: expected shape \[N, T, i\], got \[2, 4\]"):
        gram.update(torch.zeros(2, 4), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"grad_outputs: expected shape \[2, 5, 3\], got \[2, 6, 3\]"):
        gram.update(torch.zeros(2, 5, 4), torch.zeros(2, 6, 3))
    with pytest.raises(TypeError, match="grad_outputs: expected dtype"):
        gram.update(torch.zeros(2, 5, 4), torch.zeros(2, 5, 3).long())
    with pytest.raises(ValueError, match="grad_outputs: expected the device of inputs, cpu, got meta"):
        gram.update(torch.zeros(2, 5, 4), torch.zeros(2, 5, 3, device="meta"))
    gram.update(torch.ones(2, 5, 4), torch.ones(2, 5, 3))
    with pytest.raises(TypeError, match=r"bases in torch\.float32 as before, got torch\.float64"):
        gram.update(torch.zeros(2, 5, 4).double(), torch.zeros(2, 5, 3).double())
    with pytest.raises(ValueError, match="inputs: expected the device of the samples before, cpu, got meta"):
        gram.update(torch.zeros(2, 5, 4, device="meta"), torch.zeros(2, 5, 3, device="meta"))
    with pytest.raises(ValueError, match="rank: expected a number from 0 to the dimension 12, got 13"):
        gram.basis(rank=13)
    with pytest.raises(ValueError, match="out_features: expected a number above 0, got 0"):
        LinearGradientGram(4, 0)
    for tokens, value in itertools.product((1, 9), (math.nan, math.inf)):
        gram = LinearGradientGram(4, 3)
        gram.update(torch.full((2, tokens, 4), value), torch.ones(2, tokens, 3))
        with pytest.raises(ValueError, match="inputs, grad_outputs: expected finite values"):
            gram.basis()
