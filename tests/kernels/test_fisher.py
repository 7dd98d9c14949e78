"""The Fisher diagonal, its running average and the EWC penalty against float64 definitions, for both backends."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from safe_kernels import ewc_penalty_, fisher_diagonal_, squared_gradient_ema_
from safe_kernels.fisher import reference
from tests.tolerances import EWC_GRADIENT, FISHER, relative_error


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


def tensors(device: torch.device) -> list[Tensor]:
    """Tensors of odd, scalar and empty shapes."""
    return [torch.randn(shape, device=device) for shape in ((3, 5), (7,), (), (0, 4), (130,))]


def test_a_slow_average_keeps_its_share(backend: str, device: torch.device) -> None:
    """1 - 0.9999 in float32 is off by 1.7e-4 of itself, and from zero on nothing else is in the average."""
    fisher, grad = torch.zeros(40, device=device), torch.randn(40, device=device)
    squared_gradient_ema_([fisher], [grad], 0.9999)
    assert relative_error(fisher, (1.0 - 0.9999) * grad.double().square()) < FISHER[torch.float32]


@pytest.mark.parametrize("decay", [0.0, 0.9, 1.0])
def test_squared_gradient_ema(backend: str, device: torch.device, decay: float) -> None:
    fishers, grads = [tensor.abs() for tensor in tensors(device)], tensors(device)
    grads[0] = grads[0].bfloat16()
    want = [
        reference.squared_gradient_ema(fisher.double(), grad.double(), decay)
        for fisher, grad in zip(fishers, grads, strict=True)
    ]
    squared_gradient_ema_(fishers, grads, decay)
    for got, expected in zip(fishers, want, strict=True):
        assert relative_error(got, expected) < FISHER[torch.float32]


def ewc_problem(device: torch.device, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    params = [torch.nn.Parameter(tensor.to(dtype)) for tensor in tensors(device)]
    anchors = [(param.detach() + 0.1 * torch.randn_like(param)).to(dtype) for param in params]
    return list(params), anchors, [tensor.abs() for tensor in tensors(device)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_ewc_value_and_gradient_equal_float64(backend: str, device: torch.device, dtype: torch.dtype) -> None:
    params, anchors, fishers = ewc_problem(device, dtype)
    before = [torch.randn_like(param) for param in params]
    params[0].grad = before[0].clone()
    before[1:] = [torch.zeros_like(tensor) for tensor in before[1:]]
    leaves = [param.detach().double().requires_grad_() for param in params]
    want = reference.ewc_penalty(leaves, [a.double() for a in anchors], [f.double() for f in fishers], 0.7)
    gradients = torch.autograd.grad(want, leaves)
    value = ewc_penalty_(params, anchors, fishers, 0.7)
    assert relative_error(value, want) < FISHER[torch.float32]
    for param, start, gradient in zip(params, before, gradients, strict=True):
        assert param.grad is not None
        assert relative_error(param.grad, start.double() + gradient) < EWC_GRADIENT[dtype]


def test_ewc_is_zero_at_the_anchor(backend: str, device: torch.device) -> None:
    params, _, fishers = ewc_problem(device, torch.float32)
    value = ewc_penalty_(params, [param.detach().clone() for param in params], fishers, 3.0)
    assert value.item() == 0.0
    for param in params:
        assert torch.equal(param.grad, torch.zeros_like(param))


def test_ewc_is_linear_in_its_weight(backend: str, device: torch.device) -> None:
    params, anchors, fishers = ewc_problem(device, torch.float32)
    value = ewc_penalty_(params, anchors, fishers, 1.0)
    assert value > 0
    torch.testing.assert_close(ewc_penalty_(params, anchors, fishers, 4.0), 4.0 * value)


def test_without_tensors_there_is_nothing_to_do(backend: str) -> None:
    assert ewc_penalty_([], [], [], 1.0).item() == 0.0
    squared_gradient_ema_([], [], 0.9)


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
def test_fisher_bad_input_names_the_argument(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {
        "out": torch.zeros(5, 4),
        "inputs": torch.zeros(2, 3, 4),
        "grad_outputs": torch.zeros(2, 3, 5),
        **change,
    }
    with pytest.raises(error, match=message):
        fisher_diagonal_(**arguments)


def test_ewc_bad_input_names_the_argument() -> None:
    params, anchors, fishers = ewc_problem(torch.device("cpu"), torch.float32)
    with pytest.raises(ValueError, match="fishers: expected 5 entries, one for each of params, got 4"):
        ewc_penalty_(params, anchors, fishers[:-1], 1.0)
    with pytest.raises(TypeError, match=r"fishers\[1\]: expected a tensor, got None"):
        ewc_penalty_(params, anchors, [fishers[0], None, *fishers[2:]], 1.0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"anchors\[0\]: expected shape \[3, 5\], got \[7\]"):
        ewc_penalty_(params, [anchors[1], *anchors[1:]], fishers, 1.0)
    with pytest.raises(ValueError, match=r"decay: expected a number in \[0, 1\], got 1.5"):
        squared_gradient_ema_(fishers, anchors, 1.5)
