"""The EWC penalty against its definition in float64, for both backends."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from safe_kernels import ewc_penalty_
from safe_kernels.ewc_penalty import reference
from tests.kernels.squared_gradient_ema.test_api import tensors
from tests.tolerances import EWC_GRADIENT, FISHER, relative_error


def problem(device: torch.device, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    params = [torch.nn.Parameter(tensor.to(dtype)) for tensor in tensors(device)]
    anchors = [(param.detach() + 0.1 * torch.randn_like(param)).to(dtype) for param in params]
    return list(params), anchors, [tensor.abs() for tensor in tensors(device)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_value_and_gradient_equal_float64(backend: str, device: torch.device, dtype: torch.dtype) -> None:
    params, anchors, fishers = problem(device, dtype)
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


def test_is_zero_at_the_anchor(backend: str, device: torch.device) -> None:
    params, _, fishers = problem(device, torch.float32)
    value = ewc_penalty_(params, [param.detach().clone() for param in params], fishers, 3.0)
    assert value.item() == 0.0
    for param in params:
        assert torch.equal(param.grad, torch.zeros_like(param))


def test_is_linear_in_its_weight(backend: str, device: torch.device) -> None:
    params, anchors, fishers = problem(device, torch.float32)
    value = ewc_penalty_(params, anchors, fishers, 1.0)
    assert value > 0
    torch.testing.assert_close(ewc_penalty_(params, anchors, fishers, 4.0), 4.0 * value)


def test_without_tensors_there_is_nothing_to_do(backend: str) -> None:
    assert ewc_penalty_([], [], [], 1.0).item() == 0.0


def test_bad_input_names_the_argument() -> None:
    params, anchors, fishers = problem(torch.device("cpu"), torch.float32)
    with pytest.raises(ValueError, match="fishers: expected 5 entries, one for each of params, got 4"):
        ewc_penalty_(params, anchors, fishers[:-1], 1.0)
    with pytest.raises(TypeError, match=r"fishers\[1\]: expected a tensor, got None"):
        ewc_penalty_(params, anchors, [fishers[0], None, *fishers[2:]], 1.0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"anchors\[0\]: expected shape \[3, 5\], got \[7\]"):
        ewc_penalty_(params, [anchors[1], *anchors[1:]], fishers, 1.0)
