"""Per-sample gradients from captured inputs and output gradients."""

import pytest
import torch
from torch import nn

from safe_train.retention.capture import LinearCapture, per_sample_gradients
from safe_train.retention.mechanism import negative_log_likelihood
from tests.retention.toy import ToyModel, per_row_gradients
from tests.tolerances import FISHER, relative_error


def captured(model, batch):
    with LinearCapture(model.linears) as capture:
        negative_log_likelihood(model.head, model.student(batch)).backward()
        return capture.take()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_those_of_a_loop_over_rows(dtype):
    model = ToyModel(dtype=dtype)
    batch = model.batch(0)
    expected = per_row_gradients(model, batch)
    for name, (inputs, grad_outputs) in captured(model, batch).items():
        found = per_sample_gradients(inputs, grad_outputs)
        assert relative_error(found, expected[name].flatten(1)) < FISHER[torch.float32]


def test_weights_keep_their_gradients_and_their_training():
    model = ToyModel()
    model.first.weight.grad = torch.full_like(model.first.weight, 7.0)
    captured(model, model.batch(0))
    assert torch.equal(model.first.weight.grad, torch.full_like(model.first.weight, 7.0))
    assert model.second.weight.grad is None
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_layers_that_are_not_recorded_get_no_gradient_either():
    model = ToyModel()
    batch = model.batch(0)
    expected = captured(model, batch)
    with LinearCapture(model.linears, ["second"]) as capture:
        negative_log_likelihood(model.head, model.student(batch)).backward()
        found = capture.take()
    assert list(found) == ["second"]
    assert all(map(torch.equal, found["second"], expected["second"]))
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_what_a_layer_was_given_once_is_not_copied():
    layer, x = nn.Linear(4, 4, bias=False), torch.randn(3, 2, 4)
    with LinearCapture({"layer": layer}) as capture:
        layer(x).square().sum().backward()
        inputs, _ = capture.take()["layer"]
    assert inputs.data_ptr() == x.data_ptr()


def test_a_layer_used_twice_is_summed_over_its_uses_before_squaring():
    torch.manual_seed(0)
    layer = nn.Linear(4, 4, bias=False)
    x = torch.randn(3, 2, 4)
    with LinearCapture({"layer": layer}) as capture:
        layer(torch.tanh(layer(x))).square().sum().backward()
        inputs, grad_outputs = capture.take()["layer"]
    looped = []
    for row in x:
        loss = layer(torch.tanh(layer(row))).square().sum()
        looped.append(torch.autograd.grad(loss, layer.weight)[0])
    found = per_sample_gradients(inputs, grad_outputs)
    assert relative_error(found, torch.stack(looped).flatten(1)) < FISHER[torch.float32]
    uses_apart = per_sample_gradients(inputs[:, :2], grad_outputs[:, :2])
    assert relative_error(uses_apart, torch.stack(looped).flatten(1)) > 0.01


def test_a_trained_bias_is_refused():
    with pytest.raises(ValueError, match="without a trained bias"):
        LinearCapture({"layer": nn.Linear(2, 2)})


def test_all_that_a_layer_gets_is_the_only_samples():
    """Two tiles of one image, or tokens that a router has taken out of their row."""
    layer, tiles = nn.Linear(4, 3, bias=False), torch.randn(2, 5, 4)
    with LinearCapture({"layer": layer}, num_samples=1) as capture:
        layer(tiles).square().sum().backward()
        inputs, grad_outputs = capture.take()["layer"]
    (expected,) = torch.autograd.grad(layer(tiles).square().sum(), layer.weight)
    assert relative_error(per_sample_gradients(inputs, grad_outputs), expected.flatten()[None]) < FISHER[torch.float32]


def test_a_leading_axis_that_is_not_that_of_the_samples_is_refused():
    layer = nn.Linear(4, 3, bias=False)
    with (
        LinearCapture({"layer": layer}, num_samples=3),
        pytest.raises(ValueError, match=r"of 3 samples, got \[2, 5, 4\]"),
    ):
        layer(torch.randn(2, 5, 4)).sum().backward()
