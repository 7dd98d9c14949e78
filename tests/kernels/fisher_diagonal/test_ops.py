"""The operator of the Fisher diagonal: registrations, one graph, the backend asked for, FLOPs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from safe_kernels import fisher_diagonal_
from safe_kernels.fisher_diagonal.ops import fisher_diagonal
from tests.kernels.operators import assert_backend_runs, compiled, count_flops, opcheck


def arguments(tokens: int = 6, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """An accumulator [4, 3], and inputs and output gradients of two samples."""
    inputs, grads = torch.randn(2, tokens, 3, device=device), torch.randn(2, tokens, 4, device=device)
    return torch.zeros(4, 3, device=device), inputs, grads


def test_opcheck() -> None:
    opcheck(fisher_diagonal, *arguments())


def test_one_graph() -> None:
    def step(out: Tensor, inputs: Tensor, grads: Tensor) -> Tensor:
        return fisher_diagonal_(out, inputs * 2.0, grads) + 1.0

    given = arguments()
    out = given[0].clone()
    torch.testing.assert_close(compiled(step)(*given), step(out, *given[1:]))
    torch.testing.assert_close(given[0], out)


def test_the_backend_asked_for_runs(backend: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = "fisher_diagonal.triton_impl.fisher_diagonal_"
    assert_backend_runs(backend, launch, lambda: fisher_diagonal_(*arguments(2, device)), monkeypatch)


@pytest.mark.parametrize("tokens", [1, 6])
def test_flops(backend: str, device: torch.device, tokens: int) -> None:
    """A multiplication and an addition for each sample, token, input and output."""
    assert count_flops(lambda: fisher_diagonal_(*arguments(tokens, device))) == 2 * 2 * tokens * 3 * 4
