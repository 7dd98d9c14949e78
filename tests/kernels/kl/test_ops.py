"""The operator of the divergence of logits: registrations, one graph, the backend asked for, FLOPs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from safe_kernels import kl_divergence
from safe_kernels.kl.ops import kl_tokens, kl_tokens_backward
from tests.kernels.operators import assert_backend_runs, compiled, count_flops, opcheck


@pytest.mark.parametrize("want_gradient", [True, False])
@pytest.mark.parametrize("mask", [None, torch.tensor([True, False, True])])
def test_opcheck(mask: Tensor | None, want_gradient: bool) -> None:
    student = torch.randn(3, 9, requires_grad=want_gradient)
    opcheck(kl_tokens, student, torch.randn(3, 9), mask, 1.5, "jsd", 0.3, want_gradient)
    upstream, student, teacher = torch.randn(3), torch.randn(3, 9), torch.randn(3, 9)
    _, kept = kl_tokens(student, teacher, mask, 1.5, "jsd", 0.3, True)
    opcheck(kl_tokens_backward, upstream, student, teacher, mask, kept, 1.5, "jsd", 0.3)


@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd"])
def test_one_graph(divergence: str) -> None:
    def loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        return kl_divergence(student * 2.0, teacher, mask=mask, divergence=divergence)

    one_graph = compiled(loss)
    for tokens in (3, 5):
        teacher, mask = torch.randn(tokens, 9), torch.arange(tokens) > 0
        eager_leaf = torch.randn(tokens, 9, requires_grad=True)
        compiled_leaf = eager_leaf.detach().clone().requires_grad_()
        eager, result = loss(eager_leaf, teacher, mask), one_graph(compiled_leaf, teacher, mask)
        eager.backward()
        result.backward()
        torch.testing.assert_close(result, eager)
        torch.testing.assert_close(compiled_leaf.grad, eager_leaf.grad)


def test_the_backend_asked_for_runs(backend: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(2, 1, 4, device=device)
    assert_backend_runs(backend, "kl.triton_impl.logits_divergence", lambda: kl_divergence(*logits), monkeypatch)


def test_flops(backend: str, device: torch.device) -> None:
    """Without a product of matrices there is nothing to count, as for PyTorch's own element-wise operators."""
    student = torch.randn(7, 40, device=device, requires_grad=True)
    assert count_flops(lambda: kl_divergence(student, torch.randn(7, 40, device=device)).backward()) == 0
