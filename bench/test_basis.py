"""Null-space basis of 128 samples of a tensor of a million elements, rank 8, against the full decomposition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.measure import OURS, Row, Work, run
from safe_kernels import FrequentDirections, LinearGradientGram, covariance_basis, gram_basis

SAMPLES, RANK = 128, 8
TOLERANCE = 1e-2
"""Sine of the largest principal angle to the planted subspace, which the noise itself turns by 1e-3."""


def full_svd(rows: Tensor) -> Tensor:
    """The whole decomposition."""
    return torch.linalg.svd(rows, full_matrices=False).Vh[:RANK].T


def gram(rows: Tensor) -> Tensor:
    """Gram matrix in float64 and `eigh`."""
    return gram_basis(rows, rank=RANK).vectors


def sketch(rows: Tensor) -> Tensor:
    """Rows that stream by, eight at a time."""
    directions = FrequentDirections(rows.shape[1], RANK)
    for part in rows.split(RANK):
        directions.update(part)
    return directions.basis().vectors


METHODS: dict[str, Callable[[Tensor], Tensor]] = {
    OURS: gram,
    f"{OURS} FrequentDirections": sketch,
    "full SVD": full_svd,
}


def planted(dimension: int) -> tuple[Tensor, Tensor]:
    """Rows with RANK strong directions in noise, and those directions."""
    basis = torch.linalg.qr(torch.randn(dimension, RANK))[0]
    strengths = torch.linspace(40.0, 20.0, RANK) * (dimension / 1e4) ** 0.5
    rows = torch.randn(SAMPLES, dimension).mul_(0.01)
    return rows.addmm_(torch.randn(SAMPLES, RANK) * strengths, basis.T), basis


def measure(benchmark: Any, device: torch.device, name: str, dimension: int) -> None:
    """One row of the table."""
    rows, basis = planted(dimension)
    vectors = METHODS[name](rows)
    outside = vectors.double() - basis.double() @ (basis.double().T @ vectors.double())
    row = Row(
        operation="basis of samples",
        size=f"{SAMPLES} x {dimension}, rank {RANK}",
        implementation=name,
        work=Work(flops=2.0 * SAMPLES**2 * dimension, traffic=2.0 * rows.nbytes),
        error=float(torch.linalg.matrix_norm(outside, ord=2)),
        tolerance=TOLERANCE,
        rounds=1 if name == "full SVD" else 3,
    )
    run(benchmark, row, lambda: METHODS[name](rows), device)


@pytest.mark.small
@pytest.mark.parametrize("name", list(METHODS))
def test_small(benchmark: Any, device: torch.device, name: str) -> None:
    """Sizes for a CPU."""
    measure(benchmark, device, name, 65536)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(METHODS))
def test_published(benchmark: Any, name: str) -> None:
    """The size of the published table."""
    measure(benchmark, torch.device("cpu"), name, 1_000_000)


@pytest.mark.small
@pytest.mark.parametrize("name", [OURS, "full SVD"])
def test_small_covariance(benchmark: Any, device: torch.device, name: str) -> None:
    """The input subspace of a layer of 1024 inputs from 8192 of them."""
    basis = torch.linalg.qr(torch.randn(1024, RANK))[0]
    rows = torch.randn(8192, RANK) @ (4.0 * basis.T) + 0.01 * torch.randn(8192, 1024)
    methods = {OURS: lambda: covariance_basis(rows.T @ rows, rank=RANK).vectors, "full SVD": lambda: full_svd(rows)}
    vectors = methods[name]().double()
    row = Row(
        operation="basis of a layer's inputs",
        size=f"8192 x 1024, rank {RANK}",
        implementation=name,
        work=Work(flops=2.0 * 8192 * 1024**2),
        error=float(torch.linalg.matrix_norm(vectors - basis.double() @ (basis.double().T @ vectors), ord=2)),
        tolerance=TOLERANCE,
    )
    run(benchmark, row, methods[name], device)


GRADIENT_TOLERANCE = 1e-5
"""Sine of the largest principal angle to the subspace in float64; the spectrum has no gap at the rank."""


def layer_samples(tokens: int, width: int) -> list[tuple[Tensor, Tensor]]:
    """Inputs and output gradients of SAMPLES sequences in batches of 16, with a few directions that all share."""
    first, second = torch.randn(4 * RANK, width), torch.randn(4 * RANK, width)

    def mixed(shared: Tensor) -> Tensor:
        return torch.randn(16, tokens, len(shared)) @ shared + torch.randn(16, tokens, width)

    return [(mixed(first), mixed(second)) for _ in range(SAMPLES // 16)]


def formed(batches: list[tuple[Tensor, Tensor]], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """All gradients."""
    return [torch.einsum("nto,nti->noi", g.to(dtype), x.to(dtype)).flatten(1) for x, g in batches]


def from_tokens(batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Gradients are never formed whole."""
    found = LinearGradientGram(batches[0][0].shape[2], batches[0][1].shape[2])
    for inputs, grad_outputs in batches:
        found.update(inputs, grad_outputs)
    return found.basis(rank=RANK).vectors


def sketch_of_gradients(batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Gradients of a batch at a time into a sketch of four times the rank."""
    directions = FrequentDirections(batches[0][0].shape[2] * batches[0][1].shape[2], 2 * RANK)
    for batch in batches:
        directions.update(formed([batch])[0])
    return directions.basis(rank=RANK).vectors


@pytest.mark.small
@pytest.mark.parametrize("tokens", [1, 8, 128])
@pytest.mark.parametrize("name", [OURS, f"{OURS} FrequentDirections", f"{OURS} gram_basis"])
def test_small_gradients(benchmark: Any, device: torch.device, name: str, tokens: int) -> None:
    """The gradient subspace of a layer of 512 x 512 from what a backward pass captures."""
    batches = [(x.to(device), g.to(device)) for x, g in layer_samples(tokens, 512)]
    methods: dict[str, Callable[[], Tensor]] = {
        OURS: lambda: from_tokens(batches),
        f"{OURS} FrequentDirections": lambda: sketch_of_gradients(batches),
        f"{OURS} gram_basis": lambda: gram(torch.cat(formed(batches))),
    }
    best = gram(torch.cat(formed(batches, torch.float64)))
    vectors = methods[name]().double()
    row = Row(
        operation="basis of a layer's gradients",
        size=f"{SAMPLES} samples, {tokens} tokens, 512 x 512, rank {RANK}",
        implementation=name,
        work=Work(flops=2.0 * SAMPLES * RANK * 512**2, traffic=4.0 * RANK * 512**2),
        error=float(torch.linalg.matrix_norm(vectors - best @ (best.T @ vectors), ord=2)),
        tolerance=GRADIENT_TOLERANCE,
    )
    run(benchmark, row, methods[name], device)
