"""Where and when the kernels run: streams, devices, graphs, and no waiting of the host."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode

from bench.gpu.cases import (
    Case,
    Tensors,
    average_case,
    fisher_case,
    linear_case,
    logits_case,
    penalty_case,
    projection_case,
)
from bench.rehearsal import rehearsing, sized
from safe_kernels import (
    EwcPlan,
    ProjectionPlan,
    SquaredGradientEmaPlan,
    ewc_penalty_,
    project_null_space_,
    squared_gradient_ema_,
)
from tests.kernels.native.limits import largest_errors

pytestmark = pytest.mark.gpu

DTYPE = torch.bfloat16
SHAPES = sized([(612, 612), (64, 1024), (37, 1031)], [(6, 16), (3, 5)])
CASES = [
    logits_case(8, sized(32064, 70)),
    linear_case(sized(24, 5), sized(256, 16), sized(32064, 70), chunk=sized(16, 2)),
    fisher_case(3, sized(33, 5), sized(256, 20), sized(512, 12)),
    average_case(SHAPES),
    penalty_case(SHAPES),
    projection_case(SHAPES, 8),
    projection_case(SHAPES, 8, flat=True),
]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.operation} {case.name}")
OPCHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


def assert_right(case: Case, inputs: Tensors, found: Tensors) -> None:
    errors = case.errors(inputs, found)
    limits = largest_errors(case, DTYPE, len(errors))
    assert all(error < largest for error, largest in zip(errors, limits, strict=True)), (errors, limits)


def fresh(case: Case, inputs: Tensors) -> Tensors:
    """Other values of the same shapes."""
    return case.make(inputs[0].device, DTYPE)


@every_case
def test_a_side_stream_is_followed(native_device: torch.device, case: Case) -> None:
    """The inputs come into being late on that stream; a kernel on another one would read what was there before."""
    inputs = case.make(native_device, DTYPE)
    later = fresh(case, inputs)
    case.call(inputs)  # compiled before, so that nothing but the stream's order keeps the kernel back
    with _late_on_a_side_stream(native_device):
        for tensor, new in zip(inputs, later, strict=True):
            tensor.copy_(new)
        found = case.call(inputs)
    _synchronize(native_device)
    assert_right(case, later, found)


@contextmanager
def _late_on_a_side_stream(device: torch.device) -> Iterator[None]:
    if device.type == "cpu":
        yield
        return
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream(device)):
        torch.cuda._sleep(100_000_000)  # about 50 ms
        yield


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@every_case
def test_tensors_of_a_second_device(native_device: torch.device, case: Case) -> None:
    """While the first one is current."""
    if not rehearsing() and torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    second = native_device if rehearsing() else torch.device("cuda", 1)
    inputs = case.make(second, DTYPE)
    found = case.call(inputs)
    assert {tensor.device for tensor in found} == {inputs[0].device}
    assert_right(case, inputs, found)


@every_case
def test_graphs_are_followed_or_refused(native_device: torch.device, case: Case) -> None:
    """A replay computes with what the inputs hold then; an operation that cannot do so says so while it is captured."""
    inputs = case.make(native_device, DTYPE)
    later = fresh(case, inputs)
    refusal = None
    replay, found = lambda: None, inputs
    try:
        replay, found = captured(lambda: case.call(inputs), native_device)
    except RuntimeError as error:
        refusal = str(error)
    if refusal is not None:
        assert "CUDA graph" in refusal
        return
    for tensor, new in zip(inputs, later, strict=True):
        tensor.copy_(new)
    _disturb(native_device)
    replay()
    _synchronize(native_device)
    assert_right(case, later, found if native_device.type == "cuda" else case.call(inputs))


def captured(call: Callable[[], Tensors], device: torch.device) -> tuple[Callable[[], None], Tensors]:
    """A function that replays the call, and the tensors that then hold its results."""
    if device.type == "cpu":
        return lambda: None, call()
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(2):
            call()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = call()
    return graph.replay, found


def _disturb(device: torch.device) -> None:
    """Fills small blocks of pinned memory, among them any that a captured copy still reads from and should not."""
    if device.type == "cuda":
        kept = [torch.full((size,), -1, dtype=torch.int64).pin_memory() for size in (8, 64, 256, 1024) * 8]
        del kept


def plan_of(name: str, device: torch.device) -> tuple[Callable[[], Any], Callable[[], Any], list[Tensor]]:
    """A prepared call, the same by the one-shot function on copies, and the tensors that both must change alike."""
    torch.manual_seed(3)
    tensors = [[torch.randn(shape, device=device) for shape in SHAPES] for _ in range(4)]
    firsts, seconds, thirds, grads = tensors
    fishers = [tensor.abs() for tensor in thirds]
    copies = [tensor.clone() for tensor in (fishers if name == "average" else firsts)]
    if name == "penalty":
        for param, copy, grad in zip(firsts, copies, grads, strict=True):
            param.grad, copy.grad = grad, grad.clone()
        plan = EwcPlan(firsts, seconds, fishers)
        changed = [grad for param in (*firsts, *copies) if (grad := param.grad) is not None]
        return lambda: plan(0.5), lambda: ewc_penalty_(copies, seconds, fishers, 0.5), changed
    if name == "average":
        average = SquaredGradientEmaPlan(fishers)
        changed = [*fishers, *copies]
        return lambda: average(grads, 0.9), lambda: squared_gradient_ema_(copies, grads, 0.9), changed
    sizes = [shape[0] * shape[1] if name == "vectors" else shape[1] for shape in SHAPES]
    bases = [torch.linalg.qr(torch.randn(size, min(8, size), device=device))[0].contiguous() for size in sizes]
    return ProjectionPlan(firsts, bases), lambda: project_null_space_(copies, bases), [*firsts, *copies]


@pytest.mark.parametrize("name", ["penalty", "average", "rows", "vectors"])
def test_repeated_launches_of_a_plan(native_device: torch.device, name: str) -> None:
    """The first launch compiles, later ones go straight to what was compiled; each time another value is expected."""
    planned, plain, changed = plan_of(name, native_device)
    half = len(changed) // 2
    for _ in range(3):
        for tensor, copy in zip(changed[:half], changed[half:], strict=True):
            new = torch.randn_like(tensor).abs_()
            tensor.copy_(new)
            copy.copy_(new)
        before = [tensor.clone() for tensor in changed]
        planned()
        plain()
        for tensor, copy, old in zip(changed[:half], changed[half:], before, strict=False):
            torch.testing.assert_close(tensor, copy, rtol=1e-5, atol=1e-6)
            assert not torch.equal(tensor, old)


@every_case
def test_the_host_does_not_wait(native_device: torch.device, case: Case) -> None:
    inputs = case.make(native_device, DTYPE)
    case.call(inputs)
    with waiting_is_an_error(native_device):
        found = case.call(inputs)
    assert_right(case, inputs, found)


def waiting_is_an_error(device: torch.device) -> AbstractContextManager[None]:
    """Turns each synchronization with the GPU into an error."""
    return _strict() if device.type == "cuda" else nullcontext()


@contextmanager
def _strict() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that it does not see everything
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_waiting_would_be_seen(native_device: torch.device) -> None:
    """Negative control."""
    value = torch.ones(1, device=native_device)
    expected = nullcontext() if native_device.type == "cpu" else pytest.raises(RuntimeError, match="synchroniz")
    with waiting_is_an_error(native_device), expected:
        value.item()


def test_a_mask_on_the_host_does_not_make_it_wait(native_device: torch.device) -> None:
    """The documentation says so of both divergences."""
    from safe_kernels import kl_divergence, linear_kl_divergence

    student, teacher = logits_case(6, sized(8197, 40)).make(native_device, DTYPE)
    hidden, other, weight = linear_case(6, 32, sized(8197, 40)).make(native_device, DTYPE)
    mask = torch.tensor([True, False, True, True, False, True])
    found = []
    for attempt in range(2):
        with waiting_is_an_error(native_device) if attempt else nullcontext():
            found = [
                kl_divergence(student, teacher, mask=mask, reduction="none"),
                linear_kl_divergence(hidden, other, weight, mask=mask, reduction="none"),
            ]
    for values in found:
        assert torch.equal(values.cpu() == 0.0, ~mask)


class Recorded(TorchFunctionMode):
    """Keeps the operators of safe_kernels that are called, with copies of what they get."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, tuple[OpOverload, tuple[Any, ...]]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if isinstance(func, OpOverload) and func.namespace == "safe_kernels":
            self.calls[func.name()] = (func, torch.utils._pytree.tree_map_only(Tensor, copied, args))
        return func(*args, **(kwargs or {}))


def copied(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


@every_case
def test_operators_are_consistent(native_device: torch.device, case: Case) -> None:
    """Registrations, fake tensors and autograd of each operator that a case calls, on tensors of the device."""
    with Recorded() as recorded:
        case.call(case.make(native_device, DTYPE))
    assert recorded.calls
    for operator, arguments in recorded.calls.values():
        torch.library.opcheck(operator, arguments, test_utils=OPCHECKS)
