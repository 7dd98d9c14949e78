"""Options and shapes that users of other losses expect: beta of the mixture, [B, T] inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from safe_kernels import kl_divergence, linear_kl_divergence
from safe_kernels.kl import reference
from safe_kernels.linear_kl.reference import linear_token_divergence
from tests.kernels.kl.test_api import pair
from tests.kernels.linear_kl.test_api import measured as linear_measured
from tests.kernels.linear_kl.test_api import problem
from tests.tolerances import DIVERGENCE_GRADIENT, DIVERGENCE_VALUE, relative_error

BETAS = [0.02, 0.3, 0.5, 0.9]


def jensen_shannon(student: Tensor, teacher: Tensor, beta: float, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Values and gradient of their sum in float64."""
    leaf = student.double().requires_grad_()
    tokens = reference.token_divergence(leaf, teacher.double(), temperature, "jsd", beta)
    return tokens.detach(), torch.autograd.grad(tokens.sum(), leaf)[0]


def measured(student: Tensor, teacher: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    leaf = student.clone().requires_grad_()
    tokens = kl_divergence(leaf, teacher, reduction="none", **options)
    return tokens.detach(), torch.autograd.grad(tokens.sum(), leaf)[0]


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("distance", [1e-3, 0.1, 3.0])
def test_beta_equals_float64(backend: str, device: torch.device, beta: float, distance: float) -> None:
    student, teacher = pair(3, 201, distance, device)
    want, want_gradient = jensen_shannon(student, teacher, beta, 1.7)
    got, got_gradient = measured(student, teacher, divergence="jsd", jsd_beta=beta, temperature=1.7)
    assert relative_error(got, want) < DIVERGENCE_VALUE[torch.float32]
    assert relative_error(got_gradient, want_gradient) < DIVERGENCE_GRADIENT[torch.float32]


@pytest.mark.parametrize("beta", BETAS)
def test_beta_far_apart(backend: str, device: torch.device, beta: float) -> None:
    student, teacher = pair(2, 97, 60.0, device)
    want, want_gradient = jensen_shannon(student, teacher, beta)
    got, got_gradient = measured(student, teacher, divergence="jsd", jsd_beta=beta)
    assert relative_error(got, want) < DIVERGENCE_VALUE[torch.float32]
    assert (got_gradient.double() - want_gradient).abs().max() < 1e-3


@pytest.mark.parametrize("beta", BETAS)
def test_beta_of_hidden_states(backend: str, device: torch.device, beta: float) -> None:
    student, teacher, weight = problem(distance=1e-2, device=device)
    leaf = student.double().requires_grad_()
    want = linear_token_divergence(leaf, teacher.double(), weight.double(), divergence="jsd", beta=beta)
    (want_gradient,) = torch.autograd.grad(want.sum(), leaf)
    got, got_gradient = linear_measured(student, teacher, weight, divergence="jsd", jsd_beta=beta)
    assert relative_error(got, want) < DIVERGENCE_VALUE[torch.float32]
    assert relative_error(got_gradient, want_gradient) < DIVERGENCE_GRADIENT[torch.float32]


@pytest.mark.parametrize(("beta", "limit"), [(0.0, "forward"), (1.0, "reverse")])
def test_ends_of_beta_are_the_limits(backend: str, device: torch.device, beta: float, limit: str) -> None:
    """The divergence over beta, or over 1 - beta, goes to forward and reverse; the rest is of the order of beta."""
    student, teacher = pair(3, 90, 0.1, device)
    got = measured(student, teacher, divergence="jsd", jsd_beta=beta)
    want = measured(student, teacher, divergence=limit)
    small = abs(beta - 1e-3)
    near = [tensor / 1e-3 for tensor in measured(student, teacher, divergence="jsd", jsd_beta=small)]
    for found, same, close in zip(got, want, near, strict=True):
        assert torch.equal(found, same)
        assert relative_error(close, found) < 5e-3


def test_beta_is_of_jsd_alone(backend: str, device: torch.device) -> None:
    student, teacher = pair(3, 90, 0.1, device)
    changed = [kl_divergence(student, teacher, divergence="jsd", jsd_beta=beta).item() for beta in (0.5, 0.2)]
    assert abs(changed[0] / changed[1] - 1) > 0.1
    same = [kl_divergence(student, teacher, jsd_beta=beta).item() for beta in (0.5, 0.2)]
    assert same[0] == same[1]


@pytest.mark.parametrize("beta", [0.3, 0.5])
def test_textbook_mixture_fails_the_tolerance(device: torch.device, beta: float) -> None:
    """Negative control: the definition in float32, where student and teacher are close."""
    student, teacher = pair(3, 201, 1e-3, device)
    want, _ = jensen_shannon(student, teacher, beta)
    usual = reference.token_divergence(student, teacher, 1.0, "jsd", beta)
    assert relative_error(usual, want) > 10 * DIVERGENCE_VALUE[torch.float32]


@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd"])
def test_batches_of_sequences(backend: str, device: torch.device, divergence: str) -> None:
    student, teacher, weight = problem(6, device=device)
    mask = torch.tensor([[True, False, True], [False, True, True]], device=device)
    flat = linear_measured(student, teacher, weight, mask=mask.flatten(), divergence=divergence)
    shaped = linear_measured(student.view(2, 3, -1), teacher.view(2, 3, -1), weight, mask=mask, divergence=divergence)
    assert shaped[0].shape == (2, 3)
    assert shaped[1].shape == (2, 3, student.shape[1])
    for found, want in zip(shaped, flat, strict=True):
        assert torch.equal(found.view(want.shape), want)
    logits = student @ weight.T, teacher @ weight.T
    flat = measured(*logits, mask=mask.flatten(), divergence=divergence)
    shaped = measured(*(each.view(2, 3, -1) for each in logits), mask=mask, divergence=divergence)
    for found, want in zip(shaped, flat, strict=True):
        assert torch.equal(found.view(want.shape), want)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_batches_are_reduced_over_all_tokens(backend: str, device: torch.device, reduction: str) -> None:
    student, teacher = pair(6, 40, 0.3, device)
    want = kl_divergence(student, teacher, reduction=reduction)
    assert torch.equal(kl_divergence(student.view(3, 2, 40), teacher.view(3, 2, 40), reduction=reduction), want)


def test_two_heads_of_two_widths_in_batches(backend: str, device: torch.device) -> None:
    student, _, weight = problem(6, device=device)
    teacher, teacher_weight = torch.randn(6, 16, device=device), torch.randn(150, 16, device=device)
    want = linear_kl_divergence(student, teacher, weight, teacher_head_weight=teacher_weight)
    batches = student.view(2, 3, -1), teacher.view(2, 3, -1)
    assert torch.equal(linear_kl_divergence(*batches, weight, teacher_head_weight=teacher_weight), want)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": torch.ones(6, dtype=torch.bool)}, r"mask: expected shape \[2, 3\], got \[6\]"),
        ({"teacher_logits": torch.zeros(6, 4)}, r"teacher_logits: expected shape \[2, 3, 4\], got \[6, 4\]"),
        ({"student_logits": torch.zeros(1, 2, 3, 4)}, r"expected shape \[N, V\] or \[B, T, V\], got \[1, 2, 3, 4\]"),
        ({"jsd_beta": 1.5}, r"jsd_beta: expected a number from 0 to 1, got 1\.5"),
        ({"jsd_beta": float("nan")}, "jsd_beta: expected a number from 0 to 1, got nan"),
    ],
)
def test_bad_shapes_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kl_divergence(**{"student_logits": torch.zeros(2, 3, 4), "teacher_logits": torch.zeros(2, 3, 4), **change})


# Masks from labels
