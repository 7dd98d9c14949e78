"""The operator of the EWC penalty: registrations, one graph, the backend asked for, FLOPs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from safe_kernels import ewc_penalty_
from safe_kernels.ewc_penalty.ops import ewc_penalty
from tests.kernels.operators import assert_backend_runs, compiled, count_flops, opcheck


def test_opcheck() -> None:
    grads, params = [torch.randn(3, 4), torch.randn(5)], [torch.randn(3, 4), torch.randn(5)]
    fishers = [tensor.abs() for tensor in grads]
    opcheck(ewc_penalty, grads, params, [torch.zeros_like(tensor) for tensor in params], fishers, 2.0)


def test_one_graph() -> None:
    params = [torch.nn.Parameter(torch.randn(3, 4)), torch.nn.Parameter(torch.randn(5))]
    anchors = [torch.zeros_like(param) for param in params]
    fishers = [torch.rand_like(param) for param in params]

    def penalty() -> Tensor:
        return ewc_penalty_(params, anchors, fishers, 2.0)

    want = penalty()
    want_grads = [param.grad.clone() for param in params]
    for param in params:
        param.grad.zero_()
    torch.testing.assert_close(compiled(penalty)(), want)
    for param, grad in zip(params, want_grads, strict=True):
        torch.testing.assert_close(param.grad, grad)


def test_the_backend_asked_for_runs(backend: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = ([torch.ones(3, device=device)] for _ in range(3))
    params, anchors, fishers = tensors
    launch = "ewc_penalty.triton_impl.EwcLaunch"
    assert_backend_runs(backend, launch, lambda: ewc_penalty_(params, anchors, fishers, 1.0), monkeypatch)


def test_flops(backend: str, device: torch.device) -> None:
    """Without a product of matrices there is nothing to count, as for PyTorch's own element-wise operators."""
    params, anchors, fishers = ([torch.ones(3, device=device)] for _ in range(3))
    assert count_flops(lambda: ewc_penalty_(params, anchors, fishers, 1.0)) == 0
