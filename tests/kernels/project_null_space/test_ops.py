"""The operator of the null-space projection: registrations, one graph, the backend asked for, FLOPs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from safe_kernels import project_null_space_
from safe_kernels.project_null_space.ops import project_null_space
from tests.kernels.operators import assert_backend_runs, compiled, count_flops, opcheck


def test_opcheck() -> None:
    tensors, bases = [torch.randn(3, 4), torch.randn(5)], [torch.eye(4)[:, :2], torch.eye(5)[:, :1]]
    opcheck(project_null_space, tensors, bases, True)


def test_one_graph() -> None:
    def step(tensor: Tensor, basis: Tensor) -> Tensor:
        project_null_space_([tensor], [basis])
        return tensor + 1.0

    tensor, basis = torch.randn(4, 3), torch.eye(3)[:, :1]
    eager = tensor.clone()
    torch.testing.assert_close(compiled(step)(tensor, basis), step(eager, basis))
    torch.testing.assert_close(tensor, eager)


def test_the_backend_asked_for_runs(backend: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor, basis = torch.ones(2, 3, device=device), torch.eye(3, device=device)
    launch = "project_null_space.triton_impl.ProjectionLaunch"
    assert_backend_runs(backend, launch, lambda: project_null_space_([tensor], [basis]), monkeypatch)


@pytest.mark.parametrize(("dimension", "rank"), [(8, 3), (48, 3), (8, 0)], ids=["rows", "a vector", "rank 0"])
def test_flops(backend: str, device: torch.device, dimension: int, rank: int) -> None:
    """Two products with the basis, coefficients and component; of two tensors of 48 and 5 elements."""
    tensors = [torch.randn(6, 8, device=device), torch.randn(5, device=device)]
    bases = [torch.eye(dimension, device=device)[:, :rank], torch.eye(5, device=device)[:, :1]]
    assert count_flops(lambda: project_null_space_(tensors, bases)) == 2 * 2 * 48 * rank + 2 * 2 * 5
