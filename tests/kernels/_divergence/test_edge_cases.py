"""What the divergences promise around the edges: autocast, masks on the CPU, excluded classes, second derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from safe_kernels import kl_divergence, linear_kl_divergence
from safe_kernels.kl import reference
from tests.kernels.kl.test_api import pair
from tests.kernels.linear_kl.test_api import expected, measured, problem
from tests.tolerances import DIVERGENCE_GRADIENT, DIVERGENCE_VALUE, relative_error

DIVERGENCES = ["forward", "reverse", "jsd"]
INF = float("inf")


def under_autocast(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> torch.autocast:
    return torch.autocast(device.type, dtype=dtype)


# Autocast


@pytest.mark.parametrize("separate", [False, True])
def test_autocast_does_not_lower_float32(backend: str, device: torch.device, separate: bool) -> None:
    student, teacher, weight = problem(device=device)
    options = {"teacher_head_weight": weight.clone()} if separate else {}
    plain = measured(student, teacher, weight, **options)
    with under_autocast(device):
        got = measured(student, teacher, weight, **options)
    for found, want in zip(got, plain, strict=True):
        assert torch.equal(found, want)


def test_autocast_does_lower_a_plain_product(device: torch.device) -> None:
    """Negative control: the context is one in which products of float32 are taken in bfloat16."""
    student, _, weight = problem(device=device)
    with under_autocast(device):
        assert (student @ weight.T).dtype == torch.bfloat16


@pytest.mark.parametrize("hidden", [torch.bfloat16, torch.float32])
def test_autocast_converts_a_head_as_linear_does(backend: str, device: torch.device, hidden: torch.dtype) -> None:
    """Half-precision states under a float32 head, and the reverse: products in autocast's dtype."""
    head = torch.float32 if hidden == torch.bfloat16 else torch.bfloat16
    student, teacher, weight = problem(tokens=4, distance=1e-2, device=device)
    student, teacher, weight = student.to(hidden), teacher.to(hidden), weight.to(head)
    bias = torch.randn(weight.shape[0], device=device, dtype=head)
    want, want_gradient = expected(student, teacher, weight.bfloat16(), head_bias=bias.bfloat16())
    with under_autocast(device):
        assert torch.nn.functional.linear(student, weight, bias).dtype == torch.bfloat16
        got, got_gradient = measured(student, teacher, weight, head_bias=bias)
    assert got.dtype == torch.float32
    assert got_gradient.dtype == hidden
    assert relative_error(got, want) < DIVERGENCE_VALUE[torch.bfloat16]
    assert relative_error(got_gradient, want_gradient) < DIVERGENCE_GRADIENT[torch.bfloat16]


def test_autocast_promotes_logits(backend: str, device: torch.device) -> None:
    student, teacher = pair(3, 90, 0.3, device)
    student = student.bfloat16()
    want = reference.token_divergence(student.double(), teacher.double(), 1.0, "forward")
    with under_autocast(device):
        got = kl_divergence(student, teacher, reduction="none")
    assert relative_error(got, want) < DIVERGENCE_VALUE[torch.float32]


def test_dtypes_differ_without_autocast_is_an_error(device: torch.device) -> None:
    student, teacher, weight = problem(device=device)
    with pytest.raises(TypeError, match=r"head_weight: expected the dtype .*autocast"):
        linear_kl_divergence(student.bfloat16(), teacher.bfloat16(), weight)


def test_compiled_under_autocast(device: torch.device) -> None:
    student, teacher, weight = problem(device=device)
    torch._dynamo.reset()
    loss = torch.compile(lambda s: linear_kl_divergence(s, teacher.bfloat16(), weight), fullgraph=True, backend="eager")
    with under_autocast(device):
        got, want = loss(student.bfloat16()), linear_kl_divergence(student.bfloat16(), teacher.bfloat16(), weight)
    torch.testing.assert_close(got, want)


# Masks on the CPU


# Excluded classes


EXCLUDED = {
    "first block": slice(0, 64),
    "first block and more": slice(0, 70),
    "middle block": slice(64, 128),
    "last block": slice(128, 150),
    "scattered": slice(0, 150, 3),
    "all but one": slice(1, 150),
}


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("which", list(EXCLUDED))
def test_bias_that_excludes_is_exact(backend: str, device: torch.device, divergence: str, which: str) -> None:
    """A head without the excluded rows is the same function."""
    student, teacher, weight = problem(distance=1e-3, device=device)
    weight[EXCLUDED[which]] *= 100.0  # what is excluded must not show, whatever it is
    bias = torch.randn(150, device=device)
    kept = torch.ones(150, dtype=torch.bool, device=device)
    kept[EXCLUDED[which]] = False
    want, want_gradient = expected(student, teacher, weight[kept], head_bias=bias[kept], divergence=divergence)
    bias[~kept] = -INF
    got, got_gradient = measured(student, teacher, weight, head_bias=bias, divergence=divergence)
    # One class has no divergence.
    assert (got.double() - want).norm() <= DIVERGENCE_VALUE[torch.float32] * want.norm() + 1e-12
    allowed = DIVERGENCE_GRADIENT[torch.float32] * want_gradient.norm() + 1e-9
    assert (got_gradient.double() - want_gradient).norm() <= allowed


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_exclusion_by_both_of_two_heads(backend: str, device: torch.device, divergence: str) -> None:
    student, teacher, weight = problem(device=device)
    other = weight + 0.1 * torch.randn_like(weight)
    biases = torch.randn(2, 150, device=device)
    kept = slice(70, 150)
    want, want_gradient = expected(
        student, teacher, weight[kept], head_bias=biases[0, kept], teacher_head_weight=other[kept],
        teacher_head_bias=biases[1, kept], divergence=divergence,
    )  # fmt: skip
    biases[:, :70] = -INF
    got, got_gradient = measured(
        student, teacher, weight, head_bias=biases[0], teacher_head_weight=other, teacher_head_bias=biases[1],
        divergence=divergence,
    )  # fmt: skip
    assert relative_error(got, want) < DIVERGENCE_VALUE[torch.float32]
    assert relative_error(got_gradient, want_gradient) < DIVERGENCE_GRADIENT[torch.float32]


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("which", ["first block", "middle block", "last block", "scattered"])
def test_exclusion_from_logits(backend: str, device: torch.device, divergence: str, which: str) -> None:
    student, teacher = pair(2, 150, 0.1, device)
    kept = torch.ones(150, dtype=torch.bool, device=device)
    kept[EXCLUDED[which]] = False
    want = reference.token_divergence(student[:, kept].double(), teacher[:, kept].double(), 1.0, divergence)
    student[:, ~kept] = teacher[:, ~kept] = -INF
    got = kl_divergence(student, teacher, divergence=divergence, reduction="none")
    assert relative_error(got, want) < DIVERGENCE_VALUE[torch.float32]


@pytest.mark.filterwarnings("ignore:All-NaN slice")  # NumPy, in the interpreter
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize("which", ["first block", "last block", "scattered"])
def test_exclusion_by_one_alone_is_an_error(
    backend: str, device: torch.device, divergence: str, side: str, which: str
) -> None:
    """By definition infinite one way and finite the other; the difference of the logits is infinite both ways."""
    student, teacher = pair(2, 150, 0.1, device)
    (student if side == "student" else teacher)[1, EXCLUDED[which]] = -INF
    if device.type == "cpu":
        with pytest.raises(ValueError, match=r"in row 1: expected -inf in both or in neither"):
            kl_divergence(student, teacher, divergence=divergence)
    else:
        assert not kl_divergence(student, teacher, divergence=divergence).isfinite()


def test_exclusion_by_one_head_alone_is_an_error(backend: str, device: torch.device) -> None:
    if device.type != "cpu":
        pytest.skip("raised on the CPU only")
    student, teacher, weight = problem(device=device)
    biases = torch.zeros(2, 150)
    biases[1, 3] = -INF
    with pytest.raises(ValueError, match=r"head_bias and teacher_head_bias: expected -inf in both .* class 3"):
        linear_kl_divergence(
            student, teacher, weight, head_bias=biases[0], teacher_head_weight=weight, teacher_head_bias=biases[1]
        )


@pytest.mark.filterwarnings("ignore:All-NaN slice")  # NumPy, in the interpreter
def test_a_block_of_nan_is_seen(backend: str, device: torch.device) -> None:
    """What passes over blocks without a class must not pass over blocks without a number."""
    student, teacher, weight = problem(device=device)
    bias = torch.zeros(150, device=device)
    bias[64:128] = float("nan")
    assert linear_kl_divergence(student, teacher, weight, head_bias=bias).isnan()


# Second derivatives


def logits_loss(student: Tensor) -> Tensor:
    teacher = torch.ones(student.shape[-2:], device=student.device).cumsum(-1)
    return kl_divergence(student, teacher, reduction="mean")


def linear_loss(student: Tensor) -> Tensor:
    teacher = torch.ones(student.shape[-2:], device=student.device).cumsum(-1)
    weight = torch.arange(5.0 * teacher.shape[-1], device=student.device).view(5, -1).sin()
    return linear_kl_divergence(student, teacher, weight)


LOSSES = [logits_loss, linear_loss]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("power", [1, 2])
def test_second_derivative_is_refused(
    backend: str, device: torch.device, loss: Callable[[Tensor], Tensor], power: int
) -> None:
    student = torch.randn(3, 4, device=device, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"_divergence: expected a backward pass with create_graph=False"):
        torch.autograd.grad(loss(student) ** power, student, create_graph=True)
    (first,) = torch.autograd.grad(loss(student) ** power, student)
    assert not first.requires_grad


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.jacrev, torch.func.grad_and_value])
def test_function_transforms_are_refused(loss: Callable[[Tensor], Tensor], transform: Any) -> None:
    with pytest.raises(RuntimeError, match=r"_divergence: expected .*torch\.autograd, got .*torch\.func"):
        transform(loss)(torch.randn(3, 4))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("loss", LOSSES)
def test_vmap_of_values(loss: Callable[[Tensor], Tensor]) -> None:
    students = torch.randn(2, 3, 4)
    torch.testing.assert_close(torch.vmap(loss)(students), torch.stack([loss(student) for student in students]))


@pytest.mark.parametrize("loss", LOSSES)
def test_first_derivative_through_compilation(loss: Callable[[Tensor], Tensor]) -> None:
    """The check for `create_graph=True` must not take the tracing of a backward pass for one."""
    student = torch.randn(3, 4, requires_grad=True)
    torch._dynamo.reset()
    one_graph: Any = torch.compile(loss, fullgraph=True, backend="aot_eager")
    want = torch.autograd.grad(loss(student), student)
    torch.testing.assert_close(torch.autograd.grad(one_graph(student), student), want)
