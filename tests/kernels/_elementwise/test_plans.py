"""Prepared plans and what they prepare: dtypes, alignment, moving tensors, overlaps, graph capture."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from safe_kernels import (
    EwcPlan,
    GraphCaptureError,
    SquaredGradientEmaPlan,
    _tables,
    _triton,
    ewc_penalty_,
    squared_gradient_ema_,
)
from safe_kernels._backend import interpreting
from safe_kernels.ewc_penalty import torch_impl as ewc_torch
from safe_kernels.ewc_penalty.reference import ewc_penalty
from safe_kernels.squared_gradient_ema import torch_impl as ema_torch
from safe_kernels.squared_gradient_ema.reference import squared_gradient_ema
from tests.tolerances import EWC_GRADIENT, FISHER, relative_error

HALF = [torch.bfloat16, torch.float16]
DTYPES = [torch.float32, *HALF]
SHAPES = ((3, 5), (64,), (130,), (), (0, 4), (8, 16))
WEIGHT, DECAY = 0.7, 0.9


def tensors(device: torch.device, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Tensors of odd, scalar, empty and round shapes; the interpreter's programs handle 64 elements."""
    return [torch.randn(shape, device=device).to(dtype) for shape in SHAPES]


class Problem:
    """Parameters with gradients, anchors and Fishers, and what the penalty should make of them, in float64."""

    def __init__(
        self,
        device: torch.device,
        param: torch.dtype = torch.float32,
        grad: torch.dtype = torch.float32,
        anchor: torch.dtype = torch.float32,
    ) -> None:
        self.params = [torch.nn.Parameter(tensor) for tensor in tensors(device, param)]
        self.anchors, self.fishers = tensors(device, anchor), [tensor.abs() for tensor in tensors(device)]
        self.grad_dtype = grad
        self.new_gradients()

    def new_gradients(self, layout: Callable[[Tensor], Tensor] = torch.clone) -> None:
        """Gradients at other addresses, while those of before are still there, and what they should become."""
        for param in self.params:
            fresh = layout(torch.randn(param.shape, device=param.device).to(self.grad_dtype))
            param.grad = None
            param.grad_dtype = self.grad_dtype
            param.grad = fresh
        self.expect()

    def expect(self, weight: float = WEIGHT) -> None:
        wide = [param.detach().double().requires_grad_() for param in self.params]
        others = [[tensor.double() for tensor in column] for column in (self.anchors, self.fishers)]
        self.value = ewc_penalty(wide, *others, weight)
        slopes = torch.autograd.grad(self.value, wide)
        self.grads = [param.grad.double() + slope for param, slope in zip(self.params, slopes, strict=True)]

    def check(self, value: Tensor) -> None:
        assert relative_error(value, self.value) < FISHER[torch.float32]
        # The arithmetic is the Fisher's, float32; a float64 gradient gets no more digits from it.
        tolerance = EWC_GRADIENT[torch.float32 if self.grad_dtype == torch.float64 else self.grad_dtype]
        for param, want in zip(self.params, self.grads, strict=True):
            assert param.grad.dtype == self.grad_dtype
            assert relative_error(param.grad, want) < tolerance


def one_shot(problem: Problem) -> Tensor:
    return ewc_penalty_(problem.params, problem.anchors, problem.fishers, WEIGHT)


def planned(problem: Problem) -> Tensor:
    return EwcPlan(problem.params, problem.anchors, problem.fishers)(WEIGHT)


@pytest.mark.parametrize("penalty", [one_shot, planned])
@pytest.mark.parametrize(("grad", "param", "anchor"), list(product(DTYPES, DTYPES, DTYPES)))
def test_every_dtype_of_gradient_parameter_and_anchor(
    backend: str,
    device: torch.device,
    penalty: Callable[[Problem], Tensor],
    grad: torch.dtype,
    param: torch.dtype,
    anchor: torch.dtype,
) -> None:
    problem = Problem(device, param, grad, anchor)
    problem.check(penalty(problem))


def test_dtypes_that_differ_from_tensor_to_tensor(backend: str, device: torch.device) -> None:
    shapes = [(3, 5), (70,), (4, 4)]
    params, anchors, fishers, wants = [], [], [], []
    for shape, grad, param, anchor in zip(shapes, DTYPES, DTYPES[1:] + DTYPES[:1], DTYPES, strict=True):
        theta = torch.nn.Parameter(torch.randn(shape, device=device).to(param))
        theta.grad_dtype = grad
        theta.grad = torch.randn(shape, device=device).to(grad)
        params.append(theta)
        anchors.append(torch.randn(shape, device=device).to(anchor))
        fishers.append(torch.rand(shape, device=device))
        slope = fishers[-1].double() * (theta.detach().double() - anchors[-1].double())
        wants.append(theta.grad.double() + 2.0 * slope)
    EwcPlan(params, anchors, fishers)(2.0)
    for param, want in zip(params, wants, strict=True):
        assert relative_error(param.grad, want) < EWC_GRADIENT[param.grad.dtype]


@pytest.mark.parametrize("wide", ["grad", "param", "anchor", "fisher"])
def test_float64_runs_in_pytorch_operations(device: torch.device, wide: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFE_KERNELS_BACKEND", "auto")
    dtypes = {wide: torch.float64} if wide != "fisher" else {}
    problem = Problem(device, **dtypes)
    if wide == "fisher":
        problem.fishers = [fisher.double() for fisher in problem.fishers]
    problem.check(planned(problem))
    problem.new_gradients()
    problem.check(one_shot(problem))


def average_problem(device: torch.device, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    fishers, grads = [tensor.abs() for tensor in tensors(device)], tensors(device, dtype)
    pairs = zip(fishers, grads, strict=True)
    return fishers, grads, [squared_gradient_ema(f.double(), g.double(), DECAY) for f, g in pairs]


def averaged(fishers: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
    SquaredGradientEmaPlan(fishers)(grads, DECAY)


def averaged_at_once(fishers: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
    squared_gradient_ema_(fishers, grads, DECAY)


@pytest.mark.parametrize("average", [averaged, averaged_at_once])
@pytest.mark.parametrize("dtype", DTYPES)
def test_average_of_every_dtype(
    backend: str, device: torch.device, average: Callable[[Any, Any], None], dtype: torch.dtype
) -> None:
    fishers, grads, wants = average_problem(device, dtype)
    average(fishers, grads)
    for fisher, want in zip(fishers, wants, strict=True):
        assert relative_error(fisher, want) < FISHER[torch.float32]


def test_plan_has_the_bits_of_the_function(backend: str, device: torch.device) -> None:
    problem = Problem(device)
    start = [param.grad.clone() for param in problem.params]
    value = planned(problem)
    found = [param.grad.clone() for param in problem.params]
    for param, grad in zip(problem.params, start, strict=True):
        param.grad.copy_(grad)
    assert torch.equal(one_shot(problem), value)
    assert all(torch.equal(param.grad, grad) for param, grad in zip(problem.params, found, strict=True))
    fishers, grads, _ = average_problem(device, torch.float32)
    others = [fisher.clone() for fisher in fishers]
    averaged(fishers, grads)
    averaged_at_once(others, grads)
    assert all(torch.equal(a, b) for a, b in zip(fishers, others, strict=True))


def test_plan_follows_gradients_that_are_made_anew(backend: str, device: torch.device) -> None:
    problem = Problem(device)
    plan = EwcPlan(problem.params, problem.anchors, problem.fishers)
    problem.check(plan(WEIGHT))
    old = [param.grad for param in problem.params]  # so that their memory is not given out again
    before = [grad.clone() for grad in old]
    problem.new_gradients()
    problem.check(plan(WEIGHT))
    assert all(torch.equal(a, b) for a, b in zip(old, before, strict=True))


def test_plan_creates_gradients_that_are_missing(backend: str, device: torch.device) -> None:
    problem = Problem(device)
    plan = EwcPlan(problem.params, problem.anchors, problem.fishers)
    for _ in range(2):
        for param in problem.params[1:]:
            param.grad = None
        problem.params[0].grad.zero_()
        plan(WEIGHT)
        for param, anchor, fisher in zip(problem.params, problem.anchors, problem.fishers, strict=True):
            slope = WEIGHT * fisher.double() * (param.detach().double() - anchor.double())
            assert relative_error(param.grad, slope) < EWC_GRADIENT[torch.float32]


@pytest.mark.parametrize("dtype", HALF)
def test_plan_sees_a_gradient_of_another_dtype_at_the_same_address(
    backend: str, device: torch.device, dtype: torch.dtype
) -> None:
    """The allocator gives a freed gradient's memory to the next one."""
    problem = Problem(device)
    plan = EwcPlan(problem.params, problem.anchors, problem.fishers)
    plan(WEIGHT)
    problem.grad_dtype = dtype
    memory = [param.grad.view(-1) for param in problem.params]
    problem.new_gradients()
    for param, old in zip(problem.params, memory, strict=True):
        fresh = old.view(dtype)[: param.numel()].view(param.shape)
        param.grad = fresh.copy_(param.grad)
    assert [param.grad.data_ptr() for param in problem.params] == [old.data_ptr() for old in memory]
    problem.check(plan(WEIGHT))


def test_plan_follows_parameters_that_are_moved_or_converted(backend: str, device: torch.device) -> None:
    problem = Problem(device)
    plan = EwcPlan(problem.params, problem.anchors, problem.fishers)
    plan(WEIGHT)
    for convert in (torch.clone, Tensor.bfloat16, Tensor.float):
        for param in problem.params:
            param.data = convert(param.data + 1.0)
        problem.new_gradients()
        problem.check(plan(WEIGHT))


def test_plan_follows_parameters_whose_gradients_stay(backend: str, device: torch.device) -> None:
    problem = Problem(device)
    plan = EwcPlan(problem.params, problem.anchors, problem.fishers)
    plan(WEIGHT)
    for convert in (torch.clone, Tensor.bfloat16, Tensor.half, Tensor.float):
        for param in problem.params:
            param.data = convert(param.data + 1.0)
        problem.expect()
        problem.check(plan(WEIGHT))


def test_plan_sees_anchors_and_fishers_changed_in_place(backend: str, device: torch.device) -> None:
    problem = Problem(device)
    plan = EwcPlan(problem.params, problem.anchors, problem.fishers)
    plan(WEIGHT)
    for tensor in (*problem.anchors, *problem.fishers):
        tensor.mul_(2.0)
    problem.expect()
    problem.check(plan(WEIGHT))


def test_plan_follows_the_weight(backend: str, device: torch.device) -> None:
    problem = Problem(device)
    plan = EwcPlan(problem.params, problem.anchors, problem.fishers)
    value = plan(1.0)
    torch.testing.assert_close(plan(4.0), 4.0 * value)


def test_plan_does_not_keep_gradients_alive(backend: str, device: torch.device) -> None:
    problem = Problem(device)
    plan = EwcPlan(problem.params, problem.anchors, problem.fishers)
    plan(WEIGHT)
    storages = [weakref.ref(param.grad) for param in problem.params]
    for param in problem.params:
        param.grad = None
    gc.collect()
    assert [storage() for storage in storages] == [None] * len(storages)


def transposed(tensor: Tensor) -> Tensor:
    return tensor.t().contiguous().t() if tensor.dim() == 2 else tensor


@pytest.mark.parametrize("same", [True, False])
def test_tensors_in_another_order_in_memory(backend: str, device: torch.device, same: bool) -> None:
    """All of a row in one other order, as channels-last weights are, or the gradients alone."""
    problem = Problem(device)
    if same:
        for param in problem.params:
            param.data = transposed(param.data)
        problem.anchors, problem.fishers = ([transposed(t) for t in c] for c in (problem.anchors, problem.fishers))
    problem.new_gradients(layout=transposed)
    plan = EwcPlan(problem.params, problem.anchors, problem.fishers)
    problem.check(plan(WEIGHT))
    problem.new_gradients(layout=torch.clone if same else transposed)
    problem.check(plan(WEIGHT))
    fishers, grads, wants = average_problem(device, torch.float32)
    averaged(fishers, [transposed(grad) for grad in grads])
    for fisher, want in zip(fishers, wants, strict=True):
        assert relative_error(fisher, want) < FISHER[torch.float32]


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What is launched, beside launching it."""
    found: list[dict[str, Any]] = []
    launch = _triton.launch

    def recorded(kernel: Any, grid: int, *arguments: Any, **constants: Any) -> None:
        found.append({"grid": grid, **constants})
        launch(kernel, grid, *arguments, **constants)

    monkeypatch.setattr(_triton, "launch", recorded)
    monkeypatch.setenv("SAFE_KERNELS_BACKEND", "triton")
    return found


def blocks(shape: tuple[int, ...]) -> int:
    """Programs for a tensor: the interpreter's are small, so that a few elements make several."""
    return -(-torch.Size(shape).numel() // (64 if interpreting() else 4096))


def unaligned(tensor: Tensor) -> Tensor:
    """The same values, one element after an address that is a multiple of 16."""
    room = torch.empty(tensor.numel() + 17, dtype=tensor.dtype, device=tensor.device)
    start = -(room.data_ptr() // tensor.element_size()) % (16 // tensor.element_size()) + 1
    return room[start : start + tensor.numel()].view(tensor.shape).copy_(tensor)


@pytest.mark.parametrize("moved", ["grad", "param", "anchor", "fisher"])
def test_one_unaligned_tensor_leaves_wide_accesses_to_the_others(
    device: torch.device, launches: list[dict[str, Any]], moved: str
) -> None:
    problem = Problem(device)
    if moved == "grad":
        problem.params[2].grad = unaligned(problem.params[2].grad)
    elif moved == "param":
        problem.params[2].data = unaligned(problem.params[2].data)
    elif moved == "anchor":
        problem.anchors[2] = unaligned(problem.anchors[2])
    else:
        problem.fishers[2] = unaligned(problem.fishers[2])
    problem.check(planned(problem))
    others = sum(blocks(shape) for shape in (*SHAPES[:2], *SHAPES[3:]))
    assert [(launch["ALIGNED"], launch["grid"]) for launch in launches] == [(True, others), (False, blocks(SHAPES[2]))]


def test_alignment_is_looked_at_again_when_a_gradient_is_elsewhere(
    device: torch.device, launches: list[dict[str, Any]]
) -> None:
    problem = Problem(device)
    plan = EwcPlan(problem.params, problem.anchors, problem.fishers)
    for layout, aligned in ((torch.clone, [True]), (unaligned, [False]), (torch.clone, [True])):
        launches.clear()
        problem.new_gradients(layout=layout)
        problem.check(plan(WEIGHT))
        assert [launch["ALIGNED"] for launch in launches] == aligned


def test_odd_lengths_do_not_need_a_launch_of_their_own(device: torch.device, launches: list[dict[str, Any]]) -> None:
    planned(Problem(device))
    fishers, grads, _ = average_problem(device, torch.bfloat16)
    averaged(fishers, grads)
    assert [(launch["ALIGNED"], launch["grid"]) for launch in launches] == [(True, sum(map(blocks, SHAPES)))] * 2


def test_tables_are_copied_once_and_again_only_when_something_has_moved(
    device: torch.device, launches: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    copies: list[Any] = []
    copy = _tables.AddressTable._copy
    monkeypatch.setattr(_tables.AddressTable, "_copy", lambda self, c: (copies.append(c), copy(self, c)))
    problem = Problem(device)
    plan = EwcPlan(problem.params, problem.anchors, problem.fishers)
    for _ in range(3):
        plan(WEIGHT)
    assert len(copies) == 1
    kept = problem.params[1].grad
    problem.params[1].grad = kept.clone()
    plan(WEIGHT)
    assert len(copies) == 2


def test_graph_capture_needs_a_call_before_it(
    device: torch.device, launches: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = Problem(device)
    plan = EwcPlan(problem.params, problem.anchors, problem.fishers)
    fishers, grads, _ = average_problem(device, torch.float32)
    average = SquaredGradientEmaPlan(fishers)
    monkeypatch.setattr(_tables, "_capturing", lambda _: True)
    for call in (lambda: plan(WEIGHT), lambda: average(grads, DECAY)):
        with pytest.raises(GraphCaptureError, match="call the plan once before capture"):
            call()
    assert not launches
    monkeypatch.setattr(_tables, "_capturing", lambda _: False)
    plan(WEIGHT), average(grads, DECAY)
    monkeypatch.setattr(_tables, "_capturing", lambda _: True)
    launches.clear()
    plan(WEIGHT), average(grads, DECAY)
    assert len(launches) == 2
    kept = problem.params[0].grad
    problem.params[0].grad = kept.clone()
    with pytest.raises(GraphCaptureError, match="zero_grad"):
        plan(WEIGHT)
    with pytest.raises(GraphCaptureError, match="a CUDA graph is being captured"):
        one_shot(problem)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")  # that of the call that is refused
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_captured_calls_replay_with_what_is_in_the_tensors_then() -> None:
    device = torch.device("cuda")
    problem = Problem(device)
    plan = EwcPlan(problem.params, problem.anchors, problem.fishers)
    fishers, grads, _ = average_problem(device, torch.float32)
    average = SquaredGradientEmaPlan(fishers)
    plan(WEIGHT), average(grads, DECAY)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = plan(WEIGHT)
        average(grads, DECAY)
    for tensor in (*(param.data for param in problem.params), *(param.grad for param in problem.params), *grads):
        tensor.copy_(torch.randn_like(tensor))
    problem.expect()
    pairs = zip(fishers, grads, strict=True)
    wants = [squared_gradient_ema(f.double(), g.double(), DECAY) for f, g in pairs]
    graph.replay()
    problem.check(value)
    for fisher, want in zip(fishers, wants, strict=True):
        assert relative_error(fisher, want) < FISHER[torch.float32]
    kept = problem.params[0].grad
    problem.params[0].grad = kept.clone()
    with pytest.raises(GraphCaptureError), torch.cuda.graph(torch.cuda.CUDAGraph()):
        plan(WEIGHT)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_plan_on_another_stream_waits_for_its_tables() -> None:
    problem = Problem(torch.device("cuda"))
    plan = EwcPlan(problem.params, problem.anchors, problem.fishers)
    stream = torch.cuda.Stream()
    for number in range(20):
        problem.new_gradients()
        torch.cuda.synchronize()
        with torch.cuda.stream(stream if number % 2 else torch.cuda.default_stream()):
            value = plan(WEIGHT)
        torch.cuda.synchronize()
        problem.check(value)


def test_memory_that_is_named_twice_is_refused(backend: str, device: torch.device) -> None:
    problem = Problem(device)
    twice = [problem.params[0], problem.params[1], problem.params[0]]
    columns = ([tensors[0], tensors[1], tensors[0]] for tensors in (problem.anchors, problem.fishers))
    anchors, fishers = columns
    message = r"gradients\[2\]: expected memory of its own, got elements of gradients\[0\]; pass each tensor once"
    before = problem.params[0].grad.clone()
    with pytest.raises(ValueError, match=message):
        EwcPlan(twice, anchors, fishers)(WEIGHT)
    with pytest.raises(ValueError, match=message):
        ewc_penalty_(twice, anchors, fishers, WEIGHT)
    assert torch.equal(problem.params[0].grad, before)
    buffer = torch.zeros(10, device=device)
    shared, grads = [buffer[:6], buffer[5:]], [torch.ones(6, device=device), torch.ones(5, device=device)]
    for call in (lambda: SquaredGradientEmaPlan(shared), lambda: squared_gradient_ema_(shared, grads, DECAY)):
        with pytest.raises(ValueError, match=r"fishers\[1\]: expected memory of its own, got elements of fishers\[0\]"):
            call()
    assert torch.count_nonzero(buffer) == 0


def test_views_of_one_flat_buffer_are_taken(backend: str, device: torch.device) -> None:
    """As flat optimizers and sharded models keep parameters and gradients; some views begin at odd addresses."""
    problem = Problem(device)
    sizes = [param.numel() for param in problem.params]
    flat_params, flat_grads = (torch.randn(sum(sizes), device=device) for _ in range(2))
    pieces = zip(problem.params, flat_params.split(sizes), flat_grads.split(sizes), strict=True)
    for param, piece, grad in pieces:
        param.data = piece.view(param.shape)
        param.grad = grad.view(param.shape)
    problem.expect()
    problem.check(planned(problem))


def test_plans_without_tensors(backend: str) -> None:
    assert EwcPlan([], [], [])(1.0).item() == 0.0
    SquaredGradientEmaPlan([])([], 0.9)


def test_plan_checks_its_tensors_when_it_is_made(device: torch.device) -> None:
    problem = Problem(device)
    params, anchors, fishers = problem.params, problem.anchors, problem.fishers
    with pytest.raises(ValueError, match="fishers: expected 6 entries, one for each of params, got 5"):
        EwcPlan(params, anchors, fishers[:-1])
    with pytest.raises(TypeError, match=r"fishers\[1\]: expected a tensor, got None"):
        EwcPlan(params, anchors, [fishers[0], None, *fishers[2:]])  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"fishers\[0\]: expected dtype torch.float32 or torch.float64"):
        SquaredGradientEmaPlan([fishers[0].half()])
    plan = SquaredGradientEmaPlan(fishers)
    with pytest.raises(ValueError, match=r"grads\[0\]: expected shape \[3, 5\], got \[5, 3\]"):
        plan([anchors[0].t(), *anchors[1:]], DECAY)
    with pytest.raises(ValueError, match="grads: expected 6 entries"):
        plan(anchors[1:], DECAY)
    with pytest.raises(ValueError, match=r"decay: expected a number in \[0, 1\], got -1"):
        plan(anchors, -1.0)
    plan(anchors, DECAY)


def test_a_plan_in_compiled_code_names_the_function(device: torch.device) -> None:
    problem = Problem(device)
    plan = EwcPlan(problem.params, problem.anchors, problem.fishers)
    torch._dynamo.reset()
    with pytest.raises(Exception, match="call ewc_penalty_"):
        torch.compile(lambda: plan(WEIGHT), fullgraph=True, backend="eager")()


def test_the_plan_runs_the_backend_asked_for(
    backend: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = Problem(device)
    fishers, grads, _ = average_problem(device, torch.float32)
    reached: list[str] = []
    monkeypatch.setattr(_triton, "launch", lambda *_, **__: reached.append("triton"))
    monkeypatch.setattr(ewc_torch, "ewc_penalty_", lambda *_: reached.append("torch"))
    monkeypatch.setattr(ema_torch, "squared_gradient_ema_", lambda *_: reached.append("torch"))
    planned(problem)
    averaged(fishers, grads)
    assert reached == [backend, backend]
