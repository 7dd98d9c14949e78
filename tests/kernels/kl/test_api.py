"""`kl_divergence` against the float64 reference and the properties of a divergence, for both backends."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from safe_kernels import kl_divergence
from safe_kernels.kl import reference, torch_impl
from tests.tolerances import DIVERGENCE_GRADIENT, DIVERGENCE_VALUE, relative_error

DIVERGENCES = ["forward", "reverse", "jsd"]
HALF = [torch.bfloat16, torch.float16]


def expected(
    student: Tensor, teacher: Tensor, divergence: str, temperature: float = 1.0, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Per-token values and the gradient of their sum, from float64 autograd of the definition."""
    leaf = student.detach().double().requires_grad_()
    tokens = reference.token_divergence(leaf, teacher.double(), temperature, divergence)
    tokens = reference.reduce_tokens(tokens, mask, "none")
    (gradient,) = torch.autograd.grad(tokens.sum(), leaf)
    return tokens.detach(), gradient


def measured(
    student: Tensor, teacher: Tensor, divergence: str, temperature: float = 1.0, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Per-token values and the gradient of their sum, from the operation."""
    leaf = student.detach().requires_grad_()
    tokens = kl_divergence(leaf, teacher, mask=mask, temperature=temperature, divergence=divergence, reduction="none")
    tokens.sum().backward()
    assert leaf.grad is not None
    return tokens.detach(), leaf.grad


def pair(tokens: int, vocabulary: int, distance: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Student and teacher logits that differ by about `distance`."""
    teacher = 3.0 * torch.randn(tokens, vocabulary, device=device)
    return teacher + distance * torch.randn(tokens, vocabulary, device=device), teacher


def test_the_reference_reduces_by_the_tokens_that_count() -> None:
    tokens, mask = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([True, False, True])
    assert reference.reduce_tokens(tokens, None, "mean") == 3.0
    assert reference.reduce_tokens(tokens, mask, "mean") == 3.5
    assert reference.reduce_tokens(tokens, mask, "sum") == 7.0
    assert reference.reduce_tokens(tokens, mask & ~mask, "mean") == 0.0


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("distance", [1e-3, 0.1, 3.0])
def test_value_and_gradient_equal_float64(backend: str, device: torch.device, divergence: str, distance: float) -> None:
    student, teacher = pair(3, 201, distance, device)
    want, want_gradient = expected(student, teacher, divergence, temperature=1.7)
    got, got_gradient = measured(student, teacher, divergence, temperature=1.7)
    assert relative_error(got, want) < DIVERGENCE_VALUE[torch.float32]
    assert relative_error(got_gradient, want_gradient) < DIVERGENCE_GRADIENT[torch.float32]


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("dtype", HALF)
def test_half_precision(backend: str, device: torch.device, divergence: str, dtype: torch.dtype) -> None:
    student, teacher = (logits.to(dtype) for logits in pair(2, 130, 0.3, device))
    want, want_gradient = expected(student, teacher, divergence)
    got, got_gradient = measured(student, teacher, divergence)
    assert got.dtype == torch.float32
    assert got_gradient.dtype == dtype
    assert relative_error(got, want) < DIVERGENCE_VALUE[dtype]
    assert relative_error(got_gradient, want_gradient) < DIVERGENCE_GRADIENT[dtype]


def test_textbook_log_softmax_difference_fails_the_tolerance(device: torch.device) -> None:
    """Negative control: the usual formula in float32 on bfloat16 logits does not pass what the operation passes."""
    student, teacher = pair(4, 201, 1e-3, device)
    want, _ = expected(student, teacher, "forward")
    log_q = torch.log_softmax(student.bfloat16().float(), dim=-1)
    log_p = torch.log_softmax(teacher.bfloat16().float(), dim=-1)
    usual = (log_p.exp() * (log_p - log_q)).sum(-1)
    assert relative_error(usual, want) > 10 * DIVERGENCE_VALUE[torch.float32]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tokens=st.integers(0, 3), vocabulary=st.integers(1, 140), divergence=st.sampled_from(DIVERGENCES))
def test_odd_and_empty_shapes(
    backend: str, device: torch.device, tokens: int, vocabulary: int, divergence: str
) -> None:
    student, teacher = pair(tokens, vocabulary, 0.5, device)
    want, want_gradient = expected(student, teacher, divergence)
    got, got_gradient = measured(student, teacher, divergence)
    # One class has divergence zero, where rounding is all there is.
    assert (got.double() - want).abs().sum() <= DIVERGENCE_VALUE[torch.float32] * want.sum() + 1e-12
    assert relative_error(got_gradient, want_gradient) < DIVERGENCE_GRADIENT[torch.float32]


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_zero_at_equality(backend: str, device: torch.device, divergence: str) -> None:
    teacher = 5.0 * torch.randn(2, 97, device=device)
    tokens, gradient = measured(teacher.clone(), teacher, divergence)
    assert torch.equal(tokens, torch.zeros_like(tokens))
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_shift_of_all_logits_changes_nothing(backend: str, device: torch.device, divergence: str) -> None:
    student, teacher = pair(2, 97, 0.5, device)
    want, want_gradient = expected(student, teacher, divergence)
    got, got_gradient = measured(student + 100.0, teacher - 50.0, divergence)
    # Adding 100 rounds the logits to 2^-17, so the inputs themselves differ by 8e-6.
    assert relative_error(got, want) < DIVERGENCE_VALUE[torch.float32]
    assert relative_error(got_gradient, want_gradient) < DIVERGENCE_GRADIENT[torch.float32]


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_far_apart_is_finite_and_right(backend: str, device: torch.device, divergence: str) -> None:
    student, teacher = pair(2, 97, 60.0, device)
    want, want_gradient = expected(student, teacher, divergence)
    got, got_gradient = measured(student, teacher, divergence)
    assert want.max() > (0.6 if divergence == "jsd" else 5.0)
    assert relative_error(got, want) < DIVERGENCE_VALUE[torch.float32]
    # q is one class to seven digits: the gradient is what float32 rounding of logits of size 200 leaves.
    assert (got_gradient.double() - want_gradient).abs().max() < 1e-3


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_row_far_apart_leaves_its_neighbors_as_they_are(backend: str, device: torch.device, divergence: str) -> None:
    near, far = pair(3, 97, 0.05, device), pair(2, 97, 60.0, device)
    alone = measured(*near, divergence), measured(*far, divergence)
    order = [0, 3, 1, 4, 2]
    mixed = measured(*(torch.cat(logits)[order] for logits in zip(near, far, strict=True)), divergence)
    for found, *want in zip(mixed, *alone, strict=True):
        assert torch.equal(found, torch.cat(want)[order])


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_probability_that_underflows_in_the_teacher(backend: str, device: torch.device, divergence: str) -> None:
    """exp(-120) is no float32, and neither is exp(120): the product of the two must not be formed."""
    student = torch.tensor([[-120.0, 0.0, -3.0]], device=device)
    teacher = torch.tensor([[0.0, -120.0, -3.0]], device=device)
    want, want_gradient = expected(student, teacher, divergence)
    got, got_gradient = measured(student, teacher, divergence)
    assert relative_error(got, want) < DIVERGENCE_VALUE[torch.float32]
    # log(q/p) is 120, which float32 holds to 8e-6; the gradient is a difference of such numbers.
    assert (got_gradient.double() - want_gradient).abs().max() < 1e-3


def test_divergence_of_1e_12_has_its_digits(backend: str, device: torch.device) -> None:
    """expm1(delta) and delta agree in six digits here; their difference is the value."""
    teacher = 0.01 * torch.randn(3, 150, device=device)
    student = teacher + 1e-6 * torch.randn(3, 150, device=device)
    # float64 log-softmax has lost these digits too. For small d, KL is the variance of d over two, and a third moment.
    p = torch.softmax(teacher.double(), -1)
    difference = student.double() - teacher.double()
    delta = difference - (p * difference).sum(-1, keepdim=True)
    want = (p * (delta.square() / 2 + delta**3 / 6)).sum(-1)
    assert 1e-13 < want.min() < 1e-12
    assert relative_error(measured(student, teacher, "forward")[0], want) < DIVERGENCE_VALUE[torch.float32]


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_never_negative(backend: str, device: torch.device, divergence: str) -> None:
    student, teacher = pair(6, 65, 1e-5, device)
    assert (measured(student, teacher, divergence)[0] >= 0).all()


@pytest.mark.parametrize("mask_device", ["same", "cpu"])
def test_masked_tokens_have_no_effect(backend: str, device: torch.device, mask_device: str) -> None:
    student, teacher = pair(4, 65, 0.5, device)
    mask = torch.tensor([True, False, True, False], device=device if mask_device == "same" else "cpu")
    want, want_gradient = measured(student[::2].contiguous(), teacher[::2].contiguous(), "forward")
    student[1], teacher[3] = float("nan"), float("inf")
    got, got_gradient = measured(student, teacher, "forward", mask=mask)
    assert torch.equal(got[::2], want)
    assert torch.equal(got_gradient[::2], want_gradient)
    assert torch.equal(got[1::2], torch.zeros_like(got[1::2]))
    assert torch.equal(got_gradient[1::2], torch.zeros_like(got_gradient[1::2]))


@pytest.mark.filterwarnings("ignore:All-NaN slice encountered")  # numpy's, under the interpreter
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_student_that_is_no_number_shows_in_value_and_gradient(
    backend: str, device: torch.device, divergence: str
) -> None:
    """On a GPU a minimum drops a NaN unless it is told not to, and 1e30 is taken for a gradient."""
    student, teacher = pair(2, 65, 0.5, device)
    student[1, 7] = float("nan")
    value, gradient = measured(student, teacher, divergence)
    assert value[1].isnan()
    assert not gradient[1].isfinite().any()
    assert value[0].isfinite()
    assert gradient[0].isfinite().all()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("tokens", [0, 3])
def test_nothing_counts_is_exactly_zero(backend: str, device: torch.device, reduction: str, tokens: int) -> None:
    student = torch.randn(tokens, 9, device=device, requires_grad=True)
    mask = torch.zeros(tokens, dtype=torch.bool, device=device)
    value = kl_divergence(student, torch.randn(tokens, 9, device=device), mask=mask, reduction=reduction)
    value.backward()
    assert value.item() == 0.0
    assert student.grad is not None
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_reductions_count_the_tokens_that_count(backend: str, device: torch.device) -> None:
    student, teacher = pair(5, 33, 0.5, device)
    mask = torch.tensor([True, True, False, True, False], device=device)
    tokens = kl_divergence(student, teacher, mask=mask, reduction="none")
    total = kl_divergence(student, teacher, mask=mask, reduction="sum")
    mean = kl_divergence(student, teacher, mask=mask, reduction="mean")
    torch.testing.assert_close(total, tokens.sum())
    torch.testing.assert_close(mean, tokens.sum() / 3)


def test_upstream_gradient_scales_each_token(backend: str, device: torch.device) -> None:
    student, teacher = pair(3, 33, 0.5, device)
    _, plain = measured(student, teacher, "forward")
    weights = torch.tensor([2.0, 0.0, -0.5], device=device)
    leaf = student.clone().requires_grad_()
    (kl_divergence(leaf, teacher, reduction="none") * weights).sum().backward()
    torch.testing.assert_close(leaf.grad, plain * weights.unsqueeze(-1))


def test_non_contiguous_and_unaligned_inputs(backend: str, device: torch.device) -> None:
    student, teacher = (logits[:, 1:] for logits in pair(3, 66, 0.5, device))
    want = measured(student.contiguous(), teacher.contiguous(), "forward")
    by_column = [logits.t().contiguous().t() for logits in (student, teacher)]
    for views in ((student, teacher), by_column):
        got = measured(*views, "forward")
        torch.testing.assert_close(got[0], want[0])
        torch.testing.assert_close(got[1], want[1])


def test_classes_excluded_from_both_do_not_count(backend: str, device: torch.device) -> None:
    student, teacher = pair(2, 40, 0.5, device)
    want, want_gradient = measured(student[:, :30].contiguous(), teacher[:, :30].contiguous(), "forward")
    student[:, 30:], teacher[:, 30:] = -float("inf"), -float("inf")
    got, got_gradient = measured(student, teacher, "forward")
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(got_gradient[:, :30], want_gradient)
    assert torch.equal(got_gradient[:, 30:], torch.zeros_like(got_gradient[:, 30:]))


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_reference_gradcheck(divergence: str) -> None:
    student = torch.randn(2, 7, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 7, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda logits: reference.token_divergence(logits, teacher, 1.3, divergence), (student,)
    )


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_operation_gradcheck_in_float64(divergence: str) -> None:
    student = torch.randn(2, 7, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 7, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda logits: kl_divergence(logits, teacher, temperature=1.3, divergence=divergence), (student,)
    )


def test_jensen_shannon_of_disjoint_distributions_is_log_two(backend: str, device: torch.device) -> None:
    student = torch.tensor([[40.0, -40.0]], device=device)
    value = kl_divergence(student, -student, divergence="jsd")
    torch.testing.assert_close(value.cpu(), torch.tensor(2.0).log())


def test_closed_form_of_two_classes(backend: str, device: torch.device) -> None:
    """KL between Bernoulli(1/2) and Bernoulli(1/4) is log(2)/2 + log(2/3)/2."""
    student = torch.tensor([[1.0, 3.0]], device=device).log()
    value = kl_divergence(student, torch.zeros(1, 2, device=device))
    torch.testing.assert_close(value.cpu(), (torch.tensor(2.0).log() + torch.tensor(2.0 / 3.0).log()) / 2)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"student_logits": torch.zeros(4)}, ValueError, r"student_logits: expected shape \[N, V\] or \[B, T, V\]"),
        ({"student_logits": torch.zeros(2, 4, dtype=torch.int64)}, TypeError, "student_logits: expected dtype"),
        ({"teacher_logits": torch.zeros(2, 5)}, ValueError, r"teacher_logits: expected shape \[2, 4\], got \[2, 5\]"),
        ({"teacher_logits": torch.zeros(2, 4).half()}, TypeError, "teacher_logits: expected the dtype"),
        ({"teacher_logits": torch.zeros(2, 4, device="meta")}, ValueError, "teacher_logits: expected the device"),
        ({"mask": torch.ones(3, dtype=torch.bool)}, ValueError, r"mask: expected shape \[2\], got \[3\]"),
        ({"mask": torch.ones(2)}, TypeError, "mask: expected dtype torch.bool"),
        ({"temperature": 0.0}, ValueError, "temperature: expected a number above 0"),
        ({"divergence": "backward"}, ValueError, "divergence: expected one of forward, reverse, jsd, got 'backward'"),
        ({"reduction": "average"}, ValueError, "reduction: expected one of mean, sum, none"),
        ({"teacher_logits": torch.full((2, 4), float("nan"))}, ValueError, "teacher_logits: expected finite"),
        ({"teacher_logits": torch.full((2, 4), float("inf"))}, ValueError, "teacher_logits: expected finite"),
    ],
)
def test_bad_input_names_the_argument(change: dict[str, object], error: type[Exception], message: str) -> None:
    arguments = {"student_logits": torch.zeros(2, 4), "teacher_logits": torch.zeros(2, 4), **change}
    with pytest.raises(error, match=message):
        kl_divergence(**arguments)


@pytest.mark.parametrize("elements", [1, 120, 350])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_slices_of_rows_do_not_matter(monkeypatch: pytest.MonkeyPatch, divergence: str, elements: int) -> None:
    monkeypatch.setattr(torch_impl, "SLICE_ELEMENTS", elements)
    monkeypatch.setenv("SAFE_KERNELS_BACKEND", "torch")
    student, teacher = pair(7, 50, 1e-2, torch.device("cpu"))
    values, gradient = measured(student, teacher, divergence)
    expected_values, expected_gradient = expected(student, teacher, divergence)
    assert relative_error(values, expected_values) <= DIVERGENCE_VALUE[torch.float32]
    assert relative_error(gradient, expected_gradient) <= DIVERGENCE_GRADIENT[torch.float32]
