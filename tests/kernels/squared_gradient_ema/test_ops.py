"""The operator of the squared-gradient average: registrations, one graph, the backend asked for, FLOPs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from safe_kernels import squared_gradient_ema_
from safe_kernels.squared_gradient_ema.ops import squared_gradient_ema
from tests.kernels.operators import assert_backend_runs, compiled, count_flops, opcheck


def test_opcheck() -> None:
    fishers, grads = [torch.rand(3, 4), torch.rand(5)], [torch.randn(3, 4), torch.randn(5)]
    opcheck(squared_gradient_ema, fishers, grads, 0.9)


def test_one_graph() -> None:
    def step(fisher: Tensor, grad: Tensor) -> Tensor:
        squared_gradient_ema_([fisher], [grad * 2.0], 0.9)
        return fisher + 1.0

    fisher, grad = torch.rand(3, 4), torch.randn(3, 4)
    eager = fisher.clone()
    torch.testing.assert_close(compiled(step)(fisher, grad), step(eager, grad))
    torch.testing.assert_close(fisher, eager)


def test_the_backend_asked_for_runs(backend: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    fisher, grad = torch.zeros(2, 3, device=device)
    launch = "squared_gradient_ema.triton_impl.SquaredGradientEmaLaunch"
    assert_backend_runs(backend, launch, lambda: squared_gradient_ema_([fisher], [grad], 0.5), monkeypatch)


def test_flops(backend: str, device: torch.device) -> None:
    """Without a product of matrices there is nothing to count, as for PyTorch's own element-wise operators."""
    fisher, grad = torch.zeros(2, 3, device=device)
    assert count_flops(lambda: squared_gradient_ema_([fisher], [grad], 0.5)) == 0
