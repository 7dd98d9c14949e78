"""The operator of the divergence under a head: registrations, one graph, the backend asked for, FLOPs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from safe_kernels import linear_kl_divergence
from safe_kernels.linear_kl.ops import linear_kl_tokens
from tests.kernels.operators import assert_backend_runs, compiled, count_flops, opcheck


@pytest.mark.parametrize("want_gradient", [True, False])
def test_opcheck(want_gradient: bool) -> None:
    student, mask = torch.randn(3, 5, requires_grad=want_gradient), torch.tensor([True, False, True])
    opcheck(
        linear_kl_tokens, student, torch.randn(3, 5), torch.randn(9, 5), torch.randn(9), None, None, mask, 4.0, 1.5,
        "reverse", 0.3, 2, None, want_gradient,
    )  # fmt: skip


@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd"])
def test_one_graph(divergence: str) -> None:
    def loss(student: Tensor, teacher: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
        return linear_kl_divergence(student * 2.0, teacher, weight, mask=mask, divergence=divergence)

    one_graph, weight = compiled(loss), torch.randn(9, 4)
    for tokens in (3, 5):
        teacher, mask = torch.randn(tokens, 4), torch.arange(tokens) > 0
        eager_leaf = torch.randn(tokens, 4, requires_grad=True)
        compiled_leaf = eager_leaf.detach().clone().requires_grad_()
        eager, result = loss(eager_leaf, teacher, weight, mask), one_graph(compiled_leaf, teacher, weight, mask)
        eager.backward()
        result.backward()
        torch.testing.assert_close(result, eager)
        torch.testing.assert_close(compiled_leaf.grad, eager_leaf.grad)


def test_the_backend_asked_for_runs(backend: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher, weight = (torch.randn(rows, 3, device=device) for rows in (1, 1, 5))
    launch = "linear_kl.triton_impl.linear_divergence"
    assert_backend_runs(backend, launch, lambda: linear_kl_divergence(student, teacher, weight), monkeypatch)


@pytest.mark.parametrize(
    ("gradient", "teacher_width", "flops"),
    [
        (True, None, 2 * 7 * 40 * (10 + 10 + 10)),  # teacher's logits, difference, gradient
        (False, None, 2 * 7 * 40 * (10 + 10)),
        (True, 6, 2 * 7 * 40 * (6 + 10 + 10)),  # teacher's logits by its own head, student's logits, gradient
        (False, 6, 2 * 7 * 40 * (6 + 10)),
    ],
)
def test_flops(backend: str, device: torch.device, gradient: bool, teacher_width: int | None, flops: int) -> None:
    """7 tokens of width 10, 40 classes: a multiplication and an addition an entry of a head and token."""
    student, weight = torch.randn(7, 10, device=device, requires_grad=gradient), torch.randn(40, 10, device=device)
    teacher = torch.randn(7, teacher_width or 10, device=device)
    head = None if teacher_width is None else torch.randn(40, teacher_width, device=device)

    def run() -> None:
        found = linear_kl_divergence(student, teacher, weight, teacher_head_weight=head)
        if gradient:
            found.backward()

    assert count_flops(run) == flops
