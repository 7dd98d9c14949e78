"""The Fisher diagonal against its definition in float64, for both backends."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from safe_kernels import fisher_diagonal_
from safe_kernels.fisher_diagonal import reference
from tests.tolerances import FISHER, relative_error


def layer(n: int, t: int, din: int, dout: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Inputs and output gradients of a linear layer."""
    return torch.randn(n, t, din, device=device), torch.randn(n, t, dout, device=device)


def fisher(inputs: Tensor, grads: Tensor) -> Tensor:
    """The operation on a fresh accumulator."""
    return fisher_diagonal_(torch.zeros(grads.shape[2], inputs.shape[2], device=inputs.device), inputs, grads)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(n=st.integers(0, 4), t=st.sampled_from([0, 1, 2, 17]), din=st.integers(1, 70), dout=st.integers(1, 70))
def test_equals_batch_one_loop(backend: str, device: torch.device, n: int, t: int, din: int, dout: int) -> None:
    inputs, grads = layer(n, t, din, dout, device)
    want = reference.fisher_diagonal(inputs.double(), grads.double())
    assert relative_error(fisher(inputs, grads), want) < FISHER[torch.float32]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_accumulate_in_float32(backend: str, device: torch.device, dtype: torch.dtype) -> None:
    inputs, grads = (tensor.to(dtype) for tensor in layer(3, 9, 20, 12, device))
    want = reference.fisher_diagonal(inputs.double(), grads.double())
    assert relative_error(fisher(inputs, grads), want) < FISHER[dtype]


def test_equals_autograd_of_each_sample(backend: str, device: torch.device) -> None:
    """The definition itself: one backward pass a sample, through a real layer and loss."""
    linear = torch.nn.Linear(6, 4, device=device)
    inputs = torch.randn(3, 5, 6, device=device)
    want = torch.zeros(4, 6, device=device, dtype=torch.float64)
    for sample in inputs:
        (gradient,) = torch.autograd.grad(linear(sample).tanh().square().sum(), linear.weight)
        want += gradient.double().square()
    outputs = linear(inputs)
    (grad_outputs,) = torch.autograd.grad(outputs.tanh().square().sum(), outputs)
    assert relative_error(fisher(inputs, grad_outputs), want) < FISHER[torch.float32]


def test_adds_to_what_is_there(backend: str, device: torch.device) -> None:
    inputs, grads = layer(2, 3, 5, 4, device)
    start = torch.rand(4, 5, device=device)
    total = fisher_diagonal_(start.clone(), inputs, grads)
    torch.testing.assert_close(total - start, fisher(inputs, grads), rtol=1e-4, atol=1e-5)


def test_batch_split_order_and_padding_do_not_matter(backend: str, device: torch.device) -> None:
    inputs, grads = layer(5, 6, 9, 7, device)
    want = fisher(inputs, grads)
    split = fisher_diagonal_(fisher(inputs[:2], grads[:2]), inputs[2:], grads[2:])
    order = torch.tensor([3, 0, 4, 2, 1], device=device)
    padded = torch.cat([grads, torch.zeros(5, 3, 7, device=device)], 1)
    garbage = torch.cat([inputs, torch.randn(5, 3, 9, device=device)], 1)
    for other in (split, fisher(inputs[order], grads[order]), fisher(garbage, padded)):
        assert relative_error(other, want) < FISHER[torch.float32]
    assert (want >= 0).all()


def test_scaling_the_loss_scales_by_the_square(backend: str, device: torch.device) -> None:
    inputs, grads = layer(3, 4, 6, 5, device)
    assert relative_error(fisher(inputs, 3.0 * grads), 9.0 * fisher(inputs, grads)) < FISHER[torch.float32]


def test_duplicate_data_leaves_the_mean(backend: str, device: torch.device) -> None:
    inputs, grads = layer(3, 4, 6, 5, device)
    twice = fisher(torch.cat([inputs, inputs]), torch.cat([grads, grads])) / 6
    assert relative_error(twice, fisher(inputs, grads) / 3) < FISHER[torch.float32]


def test_merging_is_associative(backend: str, device: torch.device) -> None:
    parts = [fisher(*layer(2, 3, 6, 5, device)) for _ in range(3)]
    assert relative_error((parts[0] + parts[1]) + parts[2], parts[0] + (parts[1] + parts[2])) < FISHER[torch.float32]


def test_opposite_samples_do_not_cancel(backend: str, device: torch.device) -> None:
    """Negative control: two opposite per-sample gradients; squaring the batch's gradient gives zero."""
    inputs, grads = layer(1, 3, 6, 5, device)
    inputs, grads = torch.cat([inputs, inputs]), torch.cat([grads, -grads])
    batch_squared = torch.einsum("nto,nti->oi", grads.double(), inputs.double()).square()
    result = fisher(inputs, grads)
    assert batch_squared.abs().max() < 1e-10
    assert result.min() > 0


def test_opposite_tokens_of_a_sample_cancel(backend: str, device: torch.device) -> None:
    """Negative control: the sum over tokens comes before the square; squaring every token gives another quantity."""
    inputs, grads = layer(2, 1, 6, 5, device)
    inputs, grads = torch.cat([inputs, inputs], 1), torch.cat([grads, -grads], 1)
    per_token = torch.einsum("nto,nti->oi", grads.square(), inputs.square())
    assert fisher(inputs, grads).abs().max() < 1e-6
    assert per_token.min() > 0


def test_uses_of_a_tied_weight_are_summed_before_the_square(backend: str, device: torch.device) -> None:
    linear = torch.nn.Linear(4, 4, bias=False, device=device)
    samples = torch.randn(3, 2, 4, device=device)
    want = torch.zeros(4, 4, device=device, dtype=torch.float64)
    for sample in samples:
        (gradient,) = torch.autograd.grad(linear(linear(sample).tanh()).square().sum(), linear.weight)
        want += gradient.double().square()
    first = linear(samples)
    inner = first.tanh()
    second = linear(inner)
    grad_first, grad_second = torch.autograd.grad(second.square().sum(), (first, second))
    tied = fisher(torch.cat([samples, inner], 1).detach(), torch.cat([grad_first, grad_second], 1))
    separate = fisher(samples, grad_first) + fisher(inner.detach(), grad_second)
    assert relative_error(tied, want) < FISHER[torch.float32]
    assert relative_error(separate, want) > 0.05


def test_true_fisher_of_softmax_regression_is_its_closed_form(backend: str, device: torch.device) -> None:
    """Labels drawn from the model in exact proportion: F[c,i] = sum_n p_c (1 - p_c) x_i^2."""
    inputs = torch.randn(4, 1, 5, device=device, dtype=torch.float64)
    p = torch.softmax(torch.randn(4, 1, 3, device=device, dtype=torch.float64), -1)
    want = torch.einsum("ntc,nti->ci", p * (1 - p), inputs.square())
    total = torch.zeros(3, 5, device=device)
    for label in range(3):
        target = torch.nn.functional.one_hot(torch.tensor(label), 3).to(p)
        grads = (p - target) * p[..., label : label + 1].sqrt()
        fisher_diagonal_(total, inputs.float(), grads.float())
    assert relative_error(total, want) < FISHER[torch.float32]


def test_same_bits_every_time(backend: str, device: torch.device) -> None:
    inputs, grads = layer(4, 9, 33, 21, device)
    assert torch.equal(fisher(inputs, grads), fisher(inputs, grads))


def test_non_contiguous_inputs(backend: str, device: torch.device) -> None:
    inputs, grads = layer(3, 5, 8, 6, device)
    strided = fisher(inputs.transpose(0, 1).contiguous().transpose(0, 1), torch.cat([grads, grads], -1)[..., :6])
    assert relative_error(strided, fisher(inputs, grads)) < FISHER[torch.float32]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"inputs": torch.zeros(2, 4)}, ValueError, r"inputs: expected shape \[N, T, din\], got \[2, 4\]"),
        ({"inputs": torch.zeros(2, 3, 4, dtype=torch.int64)}, TypeError, "inputs: expected dtype"),
        ({"grad_outputs": torch.zeros(2, 2, 5)}, ValueError, r"grad_outputs: expected shape \[2, 3, 5\]"),
        ({"grad_outputs": torch.zeros(2, 3, 5).half()}, TypeError, "grad_outputs: expected the dtype of inputs"),
        ({"out": torch.zeros(5, 3)}, ValueError, r"out: expected shape \[5, 4\], got \[5, 3\]"),
        ({"out": torch.zeros(5, 4).bfloat16()}, TypeError, "out: expected dtype torch.float32 or torch.float64"),
        ({"out": torch.zeros(5, 4, device="meta")}, ValueError, "out: expected the device of inputs"),
    ],
)
def test_bad_input_names_the_argument(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {
        "out": torch.zeros(5, 4),
        "inputs": torch.zeros(2, 3, 4),
        "grad_outputs": torch.zeros(2, 3, 5),
        **change,
    }
    with pytest.raises(error, match=message):
        fisher_diagonal_(**arguments)
