"""The squared-gradient average against its definition in float64, for both backends."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from safe_kernels import squared_gradient_ema_
from safe_kernels.squared_gradient_ema import reference
from tests.tolerances import FISHER, relative_error


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


def test_without_tensors_there_is_nothing_to_do(backend: str) -> None:
    squared_gradient_ema_([], [], 0.9)


def test_bad_input_names_the_argument() -> None:
    fishers, grads = [torch.zeros(3, 5)], [torch.zeros(3, 5)]
    with pytest.raises(ValueError, match=r"decay: expected a number in \[0, 1\], got 1.5"):
        squared_gradient_ema_(fishers, grads, 1.5)
    with pytest.raises(ValueError, match="grads: expected 1 entries, one for each of fishers, got 2"):
        squared_gradient_ema_(fishers, [*grads, *grads], 0.9)
    with pytest.raises(ValueError, match=r"grads\[0\]: expected shape \[3, 5\], got \[7\]"):
        squared_gradient_ema_(fishers, [torch.zeros(7)], 0.9)
