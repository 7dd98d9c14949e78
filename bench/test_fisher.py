"""Fisher diagonal of a network against per-sample-gradient libraries, and of one layer against the limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.fisher_peers import PEERS, Estimator, batch_one_loop, by_safe_kernels, loss, network, plain, weights
from bench.measure import OURS, Row, Work, relative_error, run
from bench.rehearsal import sized
from safe_kernels import fisher_diagonal_

pytestmark = pytest.mark.operation("fisher_diagonal_")

SAMPLES, TOKENS, SIZE, LAYERS = 16, 64, 768, 3
TOLERANCE = 1e-4
PLAIN = "plain forward and backward, no Fisher"


@pytest.mark.small
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [OURS, PLAIN, *PEERS])
def test_small_network(benchmark: Any, device: torch.device, name: str) -> None:
    """Sizes for a CPU."""
    estimator: Estimator = {OURS: by_safe_kernels, PLAIN: plain, **PEERS}[name]
    model = network(SIZE, LAYERS)
    inputs, targets = torch.randn(SAMPLES, TOKENS, SIZE), torch.randn(SAMPLES, TOKENS, SIZE)
    want = batch_one_loop(model.double(), inputs.double(), targets.double())
    model.float()
    found = estimator(model, inputs, targets)
    row = Row(
        operation="Fisher diagonal of a network",
        size=f"N {SAMPLES}, T {TOKENS}, {LAYERS} layers of {SIZE} x {SIZE}",
        implementation=name,
        work=Work(flops=6.0 * SAMPLES * TOKENS * LAYERS * SIZE**2),
        error=max(relative_error(*pair) for pair in zip(found, want, strict=True)),
        tolerance=TOLERANCE,
        rounds=5,
    )
    run(benchmark, row, lambda: estimator(model, inputs, targets), device)


def torch_loop(out: Tensor, inputs: Tensor, grads: Tensor) -> None:
    """One matrix product a sample, squared and added."""
    for activation, gradient in zip(inputs, grads, strict=True):
        product = (gradient.T @ activation).float()
        out.addcmul_(product, product)


LAYER: dict[str, Callable[[Tensor, Tensor, Tensor], Any]] = {OURS: fisher_diagonal_, "torch loop": torch_loop}


def products(device: torch.device, dtype: torch.dtype) -> int:
    """Matrix products that one takes: in float32 on a GPU, whose limit is given for bfloat16, six of its parts.

    Three products in TF32 take as long; the units for float32 itself take 2.5 times as long (NVIDIA H100 data sheet).
    """
    return 6 if device.type == "cuda" and dtype == torch.float32 else 1


def measure_layer(
    benchmark: Any, device: torch.device, name: str, shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    """One row of the table."""
    samples, tokens, size = shape
    inputs, grads = (torch.randn(samples, tokens, size, device=device).to(dtype) for _ in range(2))
    checked = min(samples, 4)
    out = torch.zeros(size, size, device=device)
    LAYER[name](out, inputs[:checked], grads[:checked])
    want = torch.zeros(size, size, device=device, dtype=torch.float64)
    for activation, gradient in zip(inputs[:checked].double(), grads[:checked].double(), strict=True):
        want += (gradient.T @ activation).square()
    row = Row(
        operation="fisher_diagonal_",
        size=f"N {samples}, T {tokens}, {size} x {size}, {str(dtype).removeprefix('torch.')}",
        implementation=name,
        work=Work(flops=products(device, dtype) * 2.0 * samples * tokens * size**2, traffic=8.0 * size**2),
        error=relative_error(out, want),
        tolerance=TOLERANCE,
        rounds=5,
    )
    run(benchmark, row, lambda: LAYER[name](out, inputs, grads), device)


@pytest.mark.small
@pytest.mark.parametrize("name", list(LAYER))
@pytest.mark.parametrize("tokens", [1, 64])
def test_small_layer(benchmark: Any, device: torch.device, name: str, tokens: int) -> None:
    """Sizes for a CPU."""
    measure_layer(benchmark, device, name, (16, tokens, 1024), torch.float32)


@pytest.mark.full
@pytest.mark.parametrize("name", list(LAYER))
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        (sized((64, 512, 4096), (3, 5, 16)), torch.bfloat16),
        (sized((64, 64, 4096), (3, 2, 16)), torch.bfloat16),
        (sized((16, 512, 4096), (2, 5, 16)), torch.float32),
    ],
    ids=["T 512, bf16", "T 64, bf16", "T 512, fp32"],
)
def test_full_layer(
    benchmark: Any, device: torch.device, name: str, shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    """Sizes of the published table, in the gradients' dtype of Stage A as well; they need a GPU."""
    measure_layer(benchmark, device, name, shape, dtype)


def test_peers_share_one_definition() -> None:
    """The wrong quantity, the squared gradient of the batch, is told apart from what all estimators compute."""
    model, inputs, targets = network(8, 2).double(), torch.randn(4, 3, 8).double(), torch.randn(4, 3, 8).double()
    want = batch_one_loop(model, inputs, targets)
    wrong = [gradient.square() for gradient in torch.autograd.grad(loss(model(inputs), targets), weights(model))]
    assert min(relative_error(*pair) for pair in zip(wrong, want, strict=True)) > 0.1
