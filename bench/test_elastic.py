"""EWC penalty with its gradient (12 bytes a parameter) and the squared-gradient average (10), over many tensors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import safe_kernels
from bench.measure import OURS, Row, Work, relative_error, run
from bench.rehearsal import sized
from safe_kernels import ewc_penalty_, squared_gradient_ema_

FOREACH: Any = torch
"""Its multi-tensor operations are public in use and private in name."""

TOLERANCE = 1e-5
WEIGHT, DECAY = 0.5, 0.95


def tensors(count: int, size: int, device: torch.device) -> list[Tensor]:
    """Square matrices."""
    return [torch.randn(size, size, device=device) for _ in range(count)]


def autograd_penalty(params: list[Tensor], anchors: list[Tensor], fishers: list[Tensor]) -> Tensor:
    """What is usually written: a sum over the parameters, and backward."""
    value = sum(
        (fisher * (param - anchor).square()).sum()
        for param, anchor, fisher in zip(params, anchors, fishers, strict=True)
    )
    value = 0.5 * WEIGHT * torch.as_tensor(value)
    value.backward()
    return value.detach()


def foreach_penalty(params: list[Tensor], anchors: list[Tensor], fishers: list[Tensor]) -> Tensor:
    """The multi-tensor operations of PyTorch."""
    offsets = FOREACH._foreach_sub([param.detach() for param in params], anchors)
    pulls = FOREACH._foreach_mul(offsets, fishers)
    FOREACH._foreach_add_([param.grad for param in params], pulls, alpha=WEIGHT)
    products = FOREACH._foreach_mul(pulls, offsets)
    return 0.5 * WEIGHT * torch.stack([product.sum() for product in products]).sum()


def our_penalty(params: list[Tensor], anchors: list[Tensor], fishers: list[Tensor]) -> Tensor:
    """The operation."""
    return ewc_penalty_(params, anchors, fishers, WEIGHT)


def prepared_penalty(params: list[Tensor], anchors: list[Tensor], fishers: list[Tensor]) -> Callable[[], Tensor]:
    """The operation, checked once."""
    plan = prepared("EwcPlan")(params, anchors, fishers)
    return lambda: plan(WEIGHT)


def prepared(name: str) -> Any:
    """A prepared form of the operations; skips the benchmark where there is none."""
    found = getattr(safe_kernels, name, None)
    if found is None:
        pytest.skip(f"safe_kernels has no {name}")
    return found


PREPARED = f"{OURS}, prepared"
PENALTIES = {OURS: our_penalty, "torch autograd": autograd_penalty, "torch._foreach": foreach_penalty}


def measure_penalty(benchmark: Any, device: torch.device, name: str, count: int, size: int) -> None:
    """One row of the table."""
    params = [tensor.requires_grad_() for tensor in tensors(count, size, device)]
    anchors = tensors(count, size, device)
    fishers = [tensor.abs() for tensor in tensors(count, size, device)]
    for param in params:
        param.grad = torch.zeros_like(param)
    if name == PREPARED:
        call = prepared_penalty(params, anchors, fishers)
    else:
        call = partial(PENALTIES[name], params, anchors, fishers)
    value = call()
    offset = params[0].detach().double() - anchors[0].double()
    wide = [
        (f.double() * (p.detach().double() - a.double()).square()).sum()
        for p, a, f in zip(params, anchors, fishers, strict=True)
    ]
    gradient = params[0].grad if params[0].grad is not None else torch.zeros_like(offset)
    row = Row(
        operation="ewc_penalty_",
        size=f"{count} tensors of {size} x {size}",
        implementation=name,
        work=Work(traffic=5.0 * 4.0 * count * size**2),
        error=max(
            relative_error(value, 0.5 * WEIGHT * torch.stack(wide).sum()),
            relative_error(gradient, WEIGHT * fishers[0].double() * offset),
        ),
        tolerance=TOLERANCE,
        rounds=5,
    )
    run(benchmark, row, call, device)


def our_average(fishers: list[Tensor], grads: list[Tensor]) -> None:
    """The operation."""
    squared_gradient_ema_(fishers, grads, DECAY)


def foreach_average(fishers: list[Tensor], grads: list[Tensor]) -> None:
    """The multi-tensor operations of PyTorch."""
    FOREACH._foreach_mul_(fishers, DECAY)
    FOREACH._foreach_addcmul_(fishers, grads, grads, 1.0 - DECAY)


AVERAGES = {OURS: our_average, "torch._foreach": foreach_average}


def measure_average(benchmark: Any, device: torch.device, name: str, count: int, size: int) -> None:
    """One row of the table."""
    fishers, grads = [tensor.abs() for tensor in tensors(count, size, device)], tensors(count, size, device)
    want = DECAY * fishers[0].double() + (1.0 - DECAY) * grads[0].double().square()
    if name == PREPARED:
        call = partial(prepared("SquaredGradientEmaPlan")(fishers), grads, DECAY)
    else:
        call = partial(AVERAGES[name], fishers, grads)
    call()
    row = Row(
        operation="squared_gradient_ema_",
        size=f"{count} tensors of {size} x {size}",
        implementation=name,
        work=Work(traffic=3.0 * 4.0 * count * size**2),
        error=relative_error(fishers[0], want),
        tolerance=TOLERANCE,
        rounds=5,
    )
    run(benchmark, row, call, device)


@pytest.mark.small
@pytest.mark.operation("ewc_penalty_")
@pytest.mark.parametrize("name", list(PENALTIES))
def test_small_penalty(benchmark: Any, device: torch.device, name: str) -> None:
    """Sizes for a CPU."""
    measure_penalty(benchmark, device, name, 20, 512)


@pytest.mark.full
@pytest.mark.operation("ewc_penalty_")
@pytest.mark.parametrize("name", [PREPARED, *PENALTIES])
def test_full_penalty(benchmark: Any, device: torch.device, name: str) -> None:
    """Sizes of the published table; they need a GPU."""
    measure_penalty(benchmark, device, name, *sized((400, 612), (3, 6)))


@pytest.mark.small
@pytest.mark.operation("squared_gradient_ema_")
@pytest.mark.parametrize("name", list(AVERAGES))
def test_small_average(benchmark: Any, device: torch.device, name: str) -> None:
    """Sizes for a CPU."""
    measure_average(benchmark, device, name, 20, 512)


@pytest.mark.full
@pytest.mark.operation("squared_gradient_ema_")
@pytest.mark.parametrize("name", [PREPARED, *AVERAGES])
def test_full_average(benchmark: Any, device: torch.device, name: str) -> None:
    """Sizes of the published table; they need a GPU."""
    measure_average(benchmark, device, name, *sized((400, 612), (3, 6)))
