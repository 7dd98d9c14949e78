"""`linear_kl_divergence` against the float64 reference and against the logits it never stores, for both backends."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from safe_kernels import linear_kl_divergence
from safe_kernels.kl.reference import token_divergence
from safe_kernels.linear_kl import reference
from tests.tolerances import DIVERGENCE_GRADIENT, DIVERGENCE_VALUE, relative_error

DIVERGENCES = ["forward", "reverse", "jsd"]


def problem(
    tokens: int = 3, hidden: int = 24, vocabulary: int = 150, distance: float = 0.1, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor, Tensor]:
    """Student and teacher hidden states at a distance, and a head with logits of size 3."""
    teacher = torch.randn(tokens, hidden, device=device)
    student = teacher + distance * torch.randn(tokens, hidden, device=device)
    return student, teacher, 3.0 * torch.randn(vocabulary, hidden, device=device) / hidden**0.5


def expected(student: Tensor, teacher: Tensor, weight: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Per-token values and the gradient of their sum, from float64 autograd of the definition."""
    leaf = student.detach().double().requires_grad_()
    wide = {key: value.double() if isinstance(value, Tensor) else value for key, value in options.items()}
    tokens = reference.linear_token_divergence(leaf, teacher.double(), weight.double(), **wide)
    (gradient,) = torch.autograd.grad(tokens.sum(), leaf)
    return tokens.detach(), gradient


def measured(student: Tensor, teacher: Tensor, weight: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Per-token values and the gradient of their sum, from the operation."""
    leaf = student.detach().requires_grad_()
    tokens = linear_kl_divergence(leaf, teacher, weight, reduction="none", **options)
    tokens.sum().backward()
    assert leaf.grad is not None
    return tokens.detach(), leaf.grad


def assert_equal_float64(student: Tensor, teacher: Tensor, weight: Tensor, **options: Any) -> None:
    want, want_gradient = expected(student, teacher, weight, **options)
    got, got_gradient = measured(student, teacher, weight, **options)
    assert got_gradient.dtype == student.dtype
    assert relative_error(got, want) < DIVERGENCE_VALUE[student.dtype]
    assert relative_error(got_gradient, want_gradient) < DIVERGENCE_GRADIENT[student.dtype]


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("distance", [3e-4, 0.1, 2.0])
def test_value_and_gradient_equal_float64(backend: str, device: torch.device, divergence: str, distance: float) -> None:
    student, teacher, weight = problem(distance=distance, device=device)
    assert_equal_float64(student, teacher, weight, divergence=divergence, temperature=1.7)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(backend: str, device: torch.device, divergence: str, dtype: torch.dtype) -> None:
    """Of many tokens: of 3, whose errors are those of a few large logits, one draw in ten misses the tolerance."""
    student, teacher, weight = (tensor.to(dtype) for tensor in problem(64, device=device))
    assert_equal_float64(student, teacher, weight, divergence=divergence)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_gradients_below_the_smallest_float16_survive(backend: str, device: torch.device, divergence: str) -> None:
    """Entries of dz are 1e-7 here, which float16 cannot hold; their sum over classes is no smaller than elsewhere."""
    student, teacher, weight = (tensor.half() for tensor in problem(2, 24, 600, 3e-3, device))
    weight *= 0.1
    _, want = expected(student, teacher, weight, divergence=divergence)
    leaf = student.requires_grad_()
    # A loss scale, as in float16 training: the result itself has to fit as well.
    (2.0**14 * linear_kl_divergence(leaf, teacher, weight, divergence=divergence, reduction="sum")).backward()
    assert leaf.grad is not None
    assert relative_error(leaf.grad.double() / 2.0**14, want) < DIVERGENCE_GRADIENT[torch.float16]


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("options", ["bias", "softcap", "bias and softcap"])
def test_bias_and_softcap(backend: str, device: torch.device, divergence: str, options: str) -> None:
    student, teacher, weight = problem(device=device)
    chosen: dict[str, Any] = {}
    if "bias" in options:
        chosen["head_bias"] = 2.0 * torch.randn(weight.shape[0], device=device)
    if "softcap" in options:
        chosen["logit_softcap"] = 5.0
    assert_equal_float64(student, teacher, weight, divergence=divergence, temperature=0.8, **chosen)


@pytest.mark.parametrize("option", ["head_bias", "logit_softcap", "temperature", "divergence", "teacher_head_weight"])
def test_every_option_changes_the_result(backend: str, device: torch.device, option: str) -> None:
    student, teacher, weight = problem(device=device)
    options = {
        "head_bias": 2.0 * torch.randn(weight.shape[0], device=device),
        "logit_softcap": 2.0,
        "temperature": 2.0,
        "divergence": "reverse",
        "teacher_head_weight": weight + 0.1 * torch.randn_like(weight),
    }
    plain, _ = measured(student, teacher, weight)
    changed, _ = measured(student, teacher, weight, **{option: options[option]})
    assert relative_error(changed, plain) > 1e-2


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_separate_heads(backend: str, device: torch.device, divergence: str) -> None:
    student, _, weight = problem(device=device)
    teacher, teacher_weight = torch.randn(3, 16, device=device), torch.randn(150, 16, device=device)
    biases = {"head_bias": torch.randn(150, device=device), "teacher_head_bias": torch.randn(150, device=device)}
    assert_equal_float64(student, teacher, weight, divergence=divergence, teacher_head_weight=teacher_weight, **biases)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_separate_heads_keep_float32_logits(backend: str, device: torch.device, dtype: torch.dtype) -> None:
    student, teacher, weight = (tensor.to(dtype) for tensor in problem(distance=0.02, device=device))
    assert_equal_float64(student, teacher, weight, teacher_head_weight=weight.clone())


def test_rounded_logits_fail_the_tolerance(device: torch.device) -> None:
    """Negative control: at KL 5e-7 bfloat16 logits, which fused losses round to, are off by more than 100 %."""
    student, teacher, weight = problem(tokens=8, distance=3e-4, device=device)
    want, _ = expected(student, teacher, weight)
    assert 1e-7 < want.mean() < 2e-6
    logits = ((hidden @ weight.T).bfloat16() for hidden in (student, teacher))
    rounded = token_divergence(*logits, 1.0, "forward")
    assert relative_error(rounded, want) > 1.0


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tokens=st.integers(0, 4),
    hidden=st.integers(1, 33),
    vocabulary=st.integers(2, 140),
    chunk=st.sampled_from([None, 1, 3]),
    divergence=st.sampled_from(DIVERGENCES),
)
def test_odd_shapes_and_chunks(
    backend: str, device: torch.device, tokens: int, hidden: int, vocabulary: int, chunk: int | None, divergence: str
) -> None:
    student, teacher, weight = problem(tokens, hidden, vocabulary, 0.5, device)
    want, want_gradient = expected(student, teacher, weight, divergence=divergence)
    got, got_gradient = measured(student, teacher, weight, divergence=divergence, chunk_tokens=chunk)
    # Two classes, or their rows of the head, can be all but equal by chance: a part of an allowed error is absolute.
    # That of the gradient is the rounding of a product with the head.
    assert (got.double() - want).norm() <= DIVERGENCE_VALUE[torch.float32] * want.norm() + 1e-9
    allowed = 1e-6 * weight.norm() + DIVERGENCE_GRADIENT[torch.float32] * want_gradient.norm()
    assert (got_gradient.double() - want_gradient).norm() <= allowed


def test_chunk_size_does_not_matter(backend: str, device: torch.device) -> None:
    student, teacher, weight = problem(tokens=5, device=device)
    whole = measured(student, teacher, weight, chunk_tokens=5)
    for chunk in (1, 2, 64):
        parts = measured(student, teacher, weight, chunk_tokens=chunk)
        assert relative_error(parts[0], whole[0]) < 1e-5
        assert relative_error(parts[1], whole[1]) < 1e-5


@pytest.mark.parametrize("mask_device", ["same", "cpu"])
def test_masked_tokens_have_no_effect(backend: str, device: torch.device, mask_device: str) -> None:
    student, teacher, weight = problem(tokens=4, device=device)
    mask = torch.tensor([True, False, True, False], device=device if mask_device == "same" else "cpu")
    want, want_gradient = measured(student[::2].contiguous(), teacher[::2].contiguous(), weight)
    student[1], teacher[3] = float("nan"), float("inf")
    got, got_gradient = measured(student, teacher, weight, mask=mask)
    assert relative_error(got[::2], want) < 1e-6
    assert relative_error(got_gradient[::2], want_gradient) < 1e-6
    assert torch.equal(got[1::2], torch.zeros_like(got[1::2]))
    assert torch.equal(got_gradient[1::2], torch.zeros_like(got_gradient[1::2]))


def test_zero_at_equality(backend: str, device: torch.device) -> None:
    student, _, weight = problem(device=device)
    for divergence in DIVERGENCES:
        tokens, gradient = measured(student, student.clone(), weight, divergence=divergence)
        assert torch.equal(tokens, torch.zeros_like(tokens))
        assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("tokens", [0, 3])
def test_nothing_counts_is_exactly_zero(backend: str, device: torch.device, reduction: str, tokens: int) -> None:
    student, teacher, weight = problem(tokens=tokens, device=device)
    student.requires_grad_()
    mask = torch.zeros(tokens, dtype=torch.bool, device=device)
    value = linear_kl_divergence(student, teacher, weight, mask=mask, reduction=reduction)
    value.backward()
    assert value.item() == 0.0
    assert student.grad is not None
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_only_the_student_receives_a_gradient(backend: str, device: torch.device) -> None:
    student, teacher, weight = (tensor.requires_grad_() for tensor in problem(device=device))
    linear_kl_divergence(student, teacher, weight).backward()
    assert student.grad is not None
    assert teacher.grad is None
    assert weight.grad is None


def test_without_gradient_the_value_is_the_same(backend: str, device: torch.device) -> None:
    student, teacher, weight = problem(device=device)
    with_gradient, _ = measured(student, teacher, weight)
    with torch.no_grad():
        without = linear_kl_divergence(student.requires_grad_(), teacher, weight, reduction="none")
    assert torch.equal(with_gradient, without)


def test_non_contiguous_inputs(backend: str, device: torch.device) -> None:
    student, teacher, weight = problem(device=device)
    want = measured(student, teacher, weight)
    strided = [torch.cat([tensor, tensor], 1)[:, : tensor.shape[1]] for tensor in (student, teacher)]
    got = measured(strided[0], strided[1], weight.t().contiguous().t())
    assert relative_error(got[0], want[0]) < 1e-5
    assert relative_error(got[1], want[1]) < 1e-5


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("cap", [None, 2.0])
def test_gradcheck_in_float64(divergence: str, cap: float | None) -> None:
    student, teacher, weight = (tensor.double() for tensor in problem(2, 5, 9, 0.5))
    student.requires_grad_()
    for function in (reference.linear_token_divergence, linear_kl_divergence):
        assert torch.autograd.gradcheck(
            lambda hidden, function=function: function(
                hidden, teacher, weight, divergence=divergence, temperature=1.3, logit_softcap=cap
            ),
            (student,),
        )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"student_hidden": torch.zeros(4)}, ValueError, r"student_hidden: expected shape \[N, H\]"),
        ({"student_hidden": torch.zeros(2, 4, dtype=torch.int32)}, TypeError, "student_hidden: expected dtype"),
        ({"teacher_hidden": torch.zeros(3, 4)}, ValueError, r"teacher_hidden: expected shape \[2, 4\], got \[3, 4\]"),
        ({"teacher_hidden": torch.zeros(2, 4).half()}, TypeError, "teacher_hidden: expected the dtype"),
        ({"head_weight": torch.zeros(6, 5)}, ValueError, r"head_weight: expected shape \[6, 4\], got \[6, 5\]"),
        ({"head_weight": torch.zeros(6, 4, device="meta")}, ValueError, "head_weight: expected the device"),
        ({"head_bias": torch.zeros(5)}, ValueError, r"head_bias: expected shape \[6\], got \[5\]"),
        ({"teacher_head_bias": torch.zeros(6)}, ValueError, "teacher_head_bias: expected None without"),
        ({"teacher_head_weight": torch.zeros(5, 4)}, ValueError, r"teacher_head_weight: expected shape \[6, 4\]"),
        ({"logit_softcap": -1.0}, ValueError, "logit_softcap: expected a number above 0"),
        ({"chunk_tokens": 0}, ValueError, "chunk_tokens: expected a number above 0"),
        ({"mask": torch.ones(3, dtype=torch.bool)}, ValueError, r"mask: expected shape \[2\], got \[3\]"),
        ({"teacher_hidden": torch.full((2, 4), float("nan"))}, ValueError, "teacher_hidden: expected finite"),
    ],
)
def test_bad_input_names_the_argument(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {
        "student_hidden": torch.zeros(2, 4),
        "teacher_hidden": torch.zeros(2, 4),
        "head_weight": torch.ones(6, 4),
        **change,
    }
    with pytest.raises(error, match=message):
        linear_kl_divergence(**arguments)
