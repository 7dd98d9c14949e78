"""The custom operators: registrations are consistent, compilation leaves one graph, and the backend asked for runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import safe_kernels
from safe_kernels.ewc_penalty.ops import ewc_penalty
from safe_kernels.fisher_diagonal.ops import fisher_diagonal
from safe_kernels.kl.ops import kl_tokens, kl_tokens_backward
from safe_kernels.linear_kl.ops import linear_kl_tokens
from safe_kernels.project_null_space.ops import project_null_space
from safe_kernels.squared_gradient_ema.ops import squared_gradient_ema

OPCHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile into one graph, without needing a C++ compiler."""
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=True)


def leaf(*shape: int) -> Tensor:
    return torch.randn(shape, requires_grad=True)


@pytest.mark.parametrize("want_gradient", [True, False])
@pytest.mark.parametrize("mask", [None, torch.tensor([True, False, True])])
def test_opcheck_of_kl_on_logits(mask: Tensor | None, want_gradient: bool) -> None:
    student = leaf(3, 9) if want_gradient else torch.randn(3, 9)
    arguments = (student, torch.randn(3, 9), mask, 1.5, "jsd", 0.3, want_gradient)
    torch.library.opcheck(kl_tokens, arguments, test_utils=OPCHECKS)
    upstream, student, teacher = torch.randn(3), torch.randn(3, 9), torch.randn(3, 9)
    _, kept = kl_tokens(student, teacher, mask, 1.5, "jsd", 0.3, True)
    arguments = (upstream, student, teacher, mask, kept, 1.5, "jsd", 0.3)
    torch.library.opcheck(kl_tokens_backward, arguments, test_utils=OPCHECKS)


@pytest.mark.parametrize("want_gradient", [True, False])
def test_opcheck_of_linear_kl(want_gradient: bool) -> None:
    student = leaf(3, 5) if want_gradient else torch.randn(3, 5)
    mask = torch.tensor([True, False, True])
    arguments = (
        student, torch.randn(3, 5), torch.randn(9, 5), torch.randn(9), None, None, mask, 4.0, 1.5, "reverse", 0.3,
        2, None, want_gradient,
    )  # fmt: skip
    torch.library.opcheck(linear_kl_tokens, arguments, test_utils=OPCHECKS)


def test_opcheck_of_in_place_operations() -> None:
    check = torch.library.opcheck
    tensors = [torch.randn(3, 4), torch.randn(5)]
    others = [torch.randn(3, 4), torch.randn(5)]
    fishers = [tensor.abs() for tensor in others]
    check(fisher_diagonal, (torch.zeros(4, 3), torch.randn(2, 6, 3), torch.randn(2, 6, 4)))
    check(squared_gradient_ema, (fishers, tensors, 0.9))
    check(ewc_penalty, (others, tensors, [torch.zeros_like(tensor) for tensor in tensors], fishers, 2.0))
    check(project_null_space, (tensors, [torch.eye(4)[:, :2], torch.eye(5)[:, :1]], True))


def test_opcheck_finds_an_undeclared_mutation() -> None:
    """Negative control: an operator that changes its argument without saying so does not pass."""

    @torch.library.custom_op("safe_kernels_test::undeclared", mutates_args=())
    def undeclared(tensor: Tensor) -> Tensor:
        tensor.zero_()
        return tensor.clone()

    with pytest.raises(Exception, match=r"mutat|modif"):
        torch.library.opcheck(undeclared, (torch.randn(3),), test_utils=("test_schema",))


@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd"])
def test_compiled_divergences(divergence: str) -> None:
    def loss(student: Tensor, teacher: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
        hidden = student * 2.0
        linear = safe_kernels.linear_kl_divergence(hidden, teacher, weight, mask=mask, divergence=divergence)
        logits = safe_kernels.kl_divergence(hidden @ weight.T, teacher @ weight.T, divergence=divergence)
        return linear + logits

    one_graph = compiled(loss)
    weight = torch.randn(9, 4)
    for tokens in (3, 5):
        teacher, mask = torch.randn(tokens, 4), torch.arange(tokens) > 0
        eager_leaf = leaf(tokens, 4)
        compiled_leaf = eager_leaf.detach().clone().requires_grad_()
        eager = loss(eager_leaf, teacher, weight, mask)
        result = one_graph(compiled_leaf, teacher, weight, mask)
        eager.backward()
        result.backward()
        torch.testing.assert_close(result, eager)
        torch.testing.assert_close(compiled_leaf.grad, eager_leaf.grad)


def test_compiled_in_place_operations() -> None:
    def step(out: Tensor, inputs: Tensor, grads: Tensor, tensor: Tensor, basis: Tensor) -> Tensor:
        safe_kernels.fisher_diagonal_(out, inputs, grads)
        safe_kernels.squared_gradient_ema_([out], [tensor], 0.9)
        safe_kernels.project_null_space_([tensor], [basis])
        return out + tensor

    arguments = (torch.zeros(4, 3), torch.randn(2, 6, 3), torch.randn(2, 6, 4), torch.randn(4, 3), torch.eye(3)[:, :1])
    eager_arguments = [argument.clone() for argument in arguments]
    torch.testing.assert_close(compiled(step)(*arguments), step(*eager_arguments))
    for argument, eager in zip(arguments, eager_arguments, strict=True):
        torch.testing.assert_close(argument, eager)


def test_compiled_ewc_penalty() -> None:
    params = [torch.nn.Parameter(torch.randn(3, 4)), torch.nn.Parameter(torch.randn(5))]
    anchors = [torch.zeros_like(param) for param in params]
    fishers = [torch.rand_like(param) for param in params]

    def penalty() -> Tensor:
        return safe_kernels.ewc_penalty_(params, anchors, fishers, 2.0)

    want = penalty()
    want_grads = [param.grad.clone() for param in params]
    for param in params:
        param.grad.zero_()
    torch.testing.assert_close(compiled(penalty)(), want)
    for param, grad in zip(params, want_grads, strict=True):
        torch.testing.assert_close(param.grad, grad)


RUNS: dict[str, tuple[str, Callable[[torch.device], Any]]] = {
    "kl_divergence": (
        "safe_kernels.kl.triton_impl.logits_divergence",
        lambda device: safe_kernels.kl_divergence(torch.randn(1, 4, device=device), torch.randn(1, 4, device=device)),
    ),
    "linear_kl_divergence": (
        "safe_kernels.linear_kl.triton_impl.linear_divergence",
        lambda device: safe_kernels.linear_kl_divergence(*(torch.randn(s, 3, device=device) for s in (1, 1, 5))),
    ),
    "fisher_diagonal_": (
        "safe_kernels.fisher_diagonal.triton_impl.fisher_diagonal_",
        lambda device: safe_kernels.fisher_diagonal_(
            torch.zeros(2, 3, device=device), torch.randn(1, 2, 3, device=device), torch.randn(1, 2, 2, device=device)
        ),
    ),
    "squared_gradient_ema_": (
        "safe_kernels.squared_gradient_ema.triton_impl.SquaredGradientEmaLaunch",
        lambda device: safe_kernels.squared_gradient_ema_(
            [torch.zeros(3, device=device)], [torch.zeros(3, device=device)], 0.5
        ),
    ),
    "ewc_penalty_": (
        "safe_kernels.ewc_penalty.triton_impl.EwcLaunch",
        lambda device: safe_kernels.ewc_penalty_(*([torch.ones(3, device=device)] for _ in range(3)), 1.0),
    ),
    "project_null_space_": (
        "safe_kernels.project_null_space.triton_impl.ProjectionLaunch",
        lambda device: safe_kernels.project_null_space_(
            [torch.ones(2, 3, device=device)], [torch.eye(3, device=device)]
        ),
    ),
}


@pytest.mark.parametrize("operation", list(RUNS))
def test_the_backend_asked_for_runs(
    backend: str, device: torch.device, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without this, a test of the Triton backend could compare PyTorch with itself."""
    target, run = RUNS[operation]

    def reached(*_: object, **__: object) -> None:
        raise LookupError(target)

    monkeypatch.setattr(target, reached)
    if backend == "triton":
        with pytest.raises(LookupError):
            run(device)
    else:
        run(device)
