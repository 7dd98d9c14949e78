"""What the hooks of a training step ask of the device: how many operations, whether the host waits, what is held."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bench.measure import peak_extra_bytes
from safe_kernels import Basis, EwcPlan
from safe_train.retention import (
    ElasticWeightConsolidation,
    NullSpaceProjection,
    RetentionStack,
)
from safe_train.retention import ewc as elastic_module
from safe_train.retention import null_space as null_space_module
from safe_train.retention import (
    task_update as audio_share,
)
from safe_train.retention.task_update import TaskUpdate
from tests.retention.test_null_space import build, stack_of, step
from tests.retention.toy import ToyModel
from tests.tolerances import relative_error

PROJECTS = ["task_gradient", "total_gradient", "task_update", "update"]
WAITS = {torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.equal, torch.ops.aten.is_nonzero}
"""Operators whose result the host needs before it can go on."""


class Dispatched(TorchDispatchMode):
    """Counts the operators that are dispatched in its block."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: Counter[Any] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operators[func._overloadpacket] += 1
        return func(*args, **(kwargs or {}))

    @property
    def waits(self) -> int:
        return sum(self.operators[operator] for operator in WAITS)


def layers(count: int, size: int = 6) -> dict[str, nn.Linear]:
    return {f"layer{number}": nn.Linear(size, size, bias=False) for number in range(count)}


def rotation(size: int, rank: int) -> Basis:
    return Basis(torch.linalg.qr(torch.randn(size, rank))[0].contiguous(), 0.5, torch.ones(rank))


def set_gradients(linears: dict[str, nn.Linear]) -> None:
    for module in linears.values():
        module.weight.grad = torch.randn_like(module.weight)


def projection(linears: dict[str, nn.Linear], projects: str, optimizer: Any = None, **changes: Any) -> Any:
    """A mechanism with bases that come from nowhere; only its steps are looked at."""
    optimizer = optimizer or torch.optim.AdamW([module.weight for module in linears.values()], lr=1e-2)
    settings = {"rank": 2, "min_samples": 1, "refresh_interval": 1, "projects": projects, "one_sided": True}
    mechanism = NullSpaceProjection(None, linears, None, optimizer, **(settings | changes))
    mechanism.bases = {name: rotation(module.weight.numel(), 2) for name, module in linears.items()}
    return mechanism


def hooks(mechanism: Any, linears: dict[str, nn.Linear], mode: Any) -> None:
    """One step; only the mechanism's own operations are dispatched through the mode."""
    set_gradients(linears)
    with mode:
        mechanism.after_task_backward()
        mechanism.after_retention_backward()
        mechanism.before_optimizer_step(0.5)
    if hasattr(mechanism, "optimizer"):
        mechanism.optimizer.step()
    with mode:
        mechanism.after_optimizer_step()


@pytest.fixture
def no_launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The prepared operations do nothing: on a GPU each is a launch or three, as its own tests show."""
    called: list[str] = []

    class Nothing:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def __call__(self, *_: Any) -> Tensor:
            called.append("plan")
            return torch.zeros(())

    monkeypatch.setattr(null_space_module, "ProjectionPlan", Nothing)
    monkeypatch.setattr(elastic_module, "EwcPlan", Nothing)
    return called


def operators_of_a_step(make: Callable[[dict[str, nn.Linear]], Any], count: int, records_metrics: bool) -> Dispatched:
    """Of the second step: the first makes the moments."""
    linears = layers(count)
    mechanism = make(linears)
    mechanism.records_metrics = records_metrics
    hooks(mechanism, linears, Dispatched())
    mode = Dispatched()
    hooks(mechanism, linears, mode)
    if records_metrics:
        with mode:
            mechanism.metrics()
    return mode


@pytest.mark.parametrize("projects", PROJECTS)
def test_an_unlogged_step_is_as_many_operations_for_many_tensors(no_launches: list[str], projects: str) -> None:
    few, many = (
        operators_of_a_step(lambda linears: projection(linears, projects), count, records_metrics=False)
        for count in (2, 24)
    )
    assert len(no_launches) == 4
    assert few.operators == many.operators
    assert sum(many.operators.values()) <= 14  # one of them the stub's
    assert many.waits == 0


@pytest.mark.parametrize("projects", PROJECTS)
def test_an_observed_step_waits_only_when_it_is_asked(no_launches: list[str], projects: str) -> None:
    """Negative control of the count, which sees a loop over tensors and a waiting host."""
    linears = layers(5)
    mechanism = projection(linears, projects)
    mode = Dispatched()
    hooks(mechanism, linears, Dispatched())
    hooks(mechanism, linears, mode)
    assert mode.waits == 0
    assert sum(mode.operators.values()) > 14
    with mode:
        found = mechanism.metrics()
    assert mode.waits == 2
    assert set(found) == {"null_space_removed", "null_space_leakage", "null_space_energy"}


def elastic(linears: dict[str, nn.Linear]) -> Any:
    mechanism = ElasticWeightConsolidation(None, linears, None, weight=1.0, calibrate_at=0)
    mechanism.fishers = {name: torch.rand_like(module.weight) for name, module in linears.items()}
    return mechanism


def test_the_penalty_starts_nothing_but_its_plan(no_launches: list[str]) -> None:
    for count in (2, 24):
        mode = operators_of_a_step(elastic, count, records_metrics=False)
        # The stub's own zeros.
        assert mode.operators == Counter({torch.ops.aten.zeros: 1})


def test_the_count_sees_a_loop_over_tensors_and_a_waiting_host() -> None:
    tensors = [torch.ones(3) for _ in range(7)]
    with Dispatched() as mode:
        for tensor in tensors:
            tensor.mul_(2.0)
        assert torch.stack(tensors).sum().item() == 42.0
    assert mode.operators[torch.ops.aten.mul_] == 7
    assert mode.waits == 1


def test_the_penalty_of_real_plans_has_the_reference_value() -> None:
    """Beside the stub above: what the mechanism passes to its plan, and again after other Fishers were loaded."""
    linears = layers(3)
    mechanism = elastic(linears)
    for _ in range(2):
        set_gradients(linears)
        for module in linears.values():
            module.weight.data.add_(torch.randn_like(module.weight))
        pairs = [(m.weight.detach().double() - mechanism.anchors[n].double(), n, m) for n, m in linears.items()]
        wants = [m.weight.grad.double() + mechanism.fishers[n].double() * offset for offset, n, m in pairs]
        mechanism.after_retention_backward()
        for (_, _, module), want in zip(pairs, wants, strict=True):
            assert relative_error(module.weight.grad, want) < 1e-6
        value = sum(0.5 * (mechanism.fishers[name].double() * offset.square()).sum() for offset, name, _ in pairs)
        assert mechanism.metrics()["ewc"] == pytest.approx(float(value), rel=1e-6)
        other = elastic(linears)
        mechanism.load_state_dict(other.state_dict())


OPTIMIZERS = {"plain": {}, "foreach": {"foreach": True}, "fused": {"fused": True}}


@pytest.mark.parametrize("kind", list(OPTIMIZERS))
@pytest.mark.parametrize("on_host", [True, False])
def test_the_part_is_the_whole_step_when_the_audio_loss_is_all_there_is(
    kind: str, on_host: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings, step counts and sizes that differ: two groups, one layer that joins late, chunks of one tensor or two.

    Not on the host: as a fused optimizer on a GPU counts, whose scalars are tensors there.
    """
    if not on_host:
        monkeypatch.setattr(audio_share, "_on_host", lambda _: False)
    monkeypatch.setattr(audio_share, "_INTERMEDIATE_ELEMENTS", 75)
    linears = layers(5)
    weights = [module.weight for module in linears.values()]
    groups = [
        {"params": weights[:2], "lr": 1e-2, "weight_decay": 0.1, "betas": (0.9, 0.99)},
        {"params": weights[2:], "lr": 3e-3, "weight_decay": 0.0, "betas": (0.8, 0.999), "eps": 1e-4},
    ]
    optimizer = torch.optim.AdamW(groups, **OPTIMIZERS[kind])
    share = TaskUpdate(optimizer, weights)
    for number in range(6):
        set_gradients(linears)
        if number == 0:  # it takes its first step before the mechanism is there
            for weight in weights[1:]:
                weight.grad = None
            share_moment = weights[0].grad.clone() * 0.1
            optimizer.step()
            continue
        if number == 1:
            share.moments = [torch.zeros_like(weight) for weight in weights]
            share.moments[0].copy_(share_moment)
        before = [weight.detach().double() for weight in weights]
        share.take_gradients([2.0 * weight.grad for weight in weights])
        share.before_optimizer_step(0.5, wants_part=True)
        optimizer.step()
        parts = share.take_part()
        for weight, start, part in zip(weights, before, parts, strict=True):
            # The weights are rounded to float32, their change is a hundredth of them.
            assert relative_error(part, weight.detach().double() - start) < 1e-4


def test_the_chunks_of_the_part_are_told_apart_by_their_number_of_steps() -> None:
    """Negative control of the test above: with one count for all, the layer that began early is wrong."""
    weights = [module.weight for module in layers(2).values()]
    optimizer = torch.optim.AdamW(weights, lr=1e-2)
    for weight, count in zip(weights, (5.0, 1.0), strict=True):
        optimizer.state[weight] = {"step": torch.tensor(count), "exp_avg_sq": torch.ones_like(weight)}
    share = TaskUpdate(optimizer, weights)
    assert [(chunk.count, chunk.indices) for chunk in share._chunks()] == [(5.0, [0]), (1.0, [1])]


def test_settings_and_counts_are_those_of_a_state_that_was_loaded_later() -> None:
    """As a run is resumed: the mechanism is there before the optimizer takes up its state."""
    linears = layers(2)
    weights = [module.weight for module in linears.values()]
    optimizer = torch.optim.AdamW(weights, lr=1e-2)
    share = TaskUpdate(optimizer, weights)
    other = torch.optim.AdamW([torch.nn.Parameter(weight.detach().clone()) for weight in weights], lr=5e-2)
    for parameter in other.param_groups[0]["params"]:
        parameter.grad = torch.randn_like(parameter)
    other.step()
    optimizer.load_state_dict(other.state_dict())
    share.moments = [other.state[p]["exp_avg"].clone() for p in other.param_groups[0]["params"]]
    before = [weight.detach().double() for weight in weights]
    set_gradients(linears)
    share.take_gradients([weight.grad for weight in weights])
    share.before_optimizer_step(1.0, wants_part=True)
    optimizer.step()
    for weight, start, part in zip(weights, before, share.take_part(), strict=True):
        assert relative_error(part, weight.detach().double() - start) < 1e-4


@pytest.mark.parametrize(("projects", "one_sided"), [(p, s) for p in PROJECTS for s in (True, False)])
def test_observations_are_the_shares_by_their_definition(projects: str, one_sided: bool) -> None:
    """From what goes into the plan and what comes out, in float64."""
    linears = layers(3)
    mechanism = projection(linears, projects, one_sided=one_sided)
    vectors = [basis.vectors.double() for basis in mechanism.bases.values()]
    seen: list[list[Tensor]] = []
    hooks(mechanism, linears, Dispatched())
    plan = mechanism._plan

    def recorded(tensors: list[Tensor]) -> None:
        seen.append([tensor.double() for tensor in tensors])
        plan(tensors)
        seen.append([tensor.double() for tensor in tensors])

    mechanism._plan = recorded
    hooks(mechanism, linears, Dispatched())
    before, after = (torch.cat([tensor.flatten() for tensor in tensors]) for tensors in seen)
    inside = torch.cat([u.T @ tensor.flatten() for tensor, u in zip(seen[1], vectors, strict=True)])
    inside = inside.clamp_min(0.0) if one_sided else inside
    found = mechanism.metrics()
    assert found["null_space_removed"] == pytest.approx(float((before - after).norm() / before.norm()), rel=1e-5)
    assert 0.01 < found["null_space_removed"] < 1.0
    # Rounding is all that is left, in the mechanism's float32 and in the product here.
    assert found["null_space_leakage"] == pytest.approx(float(inside.norm() / after.norm()), abs=1e-6)


def test_what_a_gradient_loses_points_along_the_negative_gradient() -> None:
    linears = layers(1)
    mechanism = projection(linears, "total_gradient")
    (vectors,) = [basis.vectors for basis in mechanism.bases.values()]
    set_gradients(linears)
    weight = linears["layer0"].weight
    before = vectors.T @ weight.grad.flatten()
    mechanism.after_retention_backward()
    after = vectors.T @ weight.grad.flatten()
    torch.testing.assert_close(after, before.clamp_min(0.0), atol=1e-6, rtol=0)
    assert (before < 0).any() or (before > 0).any()


def test_a_step_that_nobody_observes_leaves_no_shares() -> None:
    linears = layers(2)
    mechanism = projection(linears, "task_update")
    stack = RetentionStack(None, [mechanism])
    for wanted in (False, True, False):
        stack.record_metrics(wanted)
        hooks(mechanism, linears, Dispatched())
        assert ("null_space_removed" in stack.metrics()) == wanted


@pytest.mark.parametrize("projects", PROJECTS)
def test_observing_changes_no_bit(projects: str) -> None:
    weights = []
    for records_metrics in (True, False):
        model = ToyModel()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        stack = stack_of(model, build(model, optimizer, projects=projects))
        stack.record_metrics(records_metrics)
        for number in range(8):
            step(model, optimizer, stack, number)
        weights.append(model.first.weight.detach())
    assert torch.equal(*weights)


COPIES = {"task_update": 1.0, "update": 1.0, "task_gradient": 0.0, "total_gradient": 0.0}
"""Of the trained parameters, held during a step beside the moments."""


@pytest.mark.parametrize("projects", PROJECTS)
def test_a_step_holds_one_copy_beside_the_moments(projects: str, monkeypatch: pytest.MonkeyPatch) -> None:
    count, size = 16, 256
    monkeypatch.setattr(audio_share, "_INTERMEDIATE_ELEMENTS", size**2)
    linears = layers(count, size)
    mechanism = projection(linears, projects)
    mechanism.records_metrics = False
    mechanism.bases = {name: rotation(size, 2) for name in linears}
    optimizer = mechanism.optimizer
    set_gradients(linears)

    def hooks_alone() -> None:
        mechanism.after_task_backward()
        mechanism.after_retention_backward()
        mechanism.before_optimizer_step(0.5)
        mechanism.after_optimizer_step()

    optimizer.step()
    hooks_alone()
    extra = peak_extra_bytes(hooks_alone, torch.device("cpu")) / (4 * count * size**2)
    # Beside the copy, one intermediate result of a chunk, which is one tensor here.
    assert COPIES[projects] <= extra <= COPIES[projects] + 1.2 / count


def test_plans_are_made_anew_for_other_bases() -> None:
    linears = layers(2)
    mechanism = projection(linears, "total_gradient", one_sided=False)
    for _ in range(2):
        set_gradients(linears)
        mechanism.after_retention_backward()
        for name, module in linears.items():
            assert (mechanism.bases[name].vectors.T @ module.weight.grad.flatten()).abs().max() < 1e-6
        other = projection(linears, "total_gradient", one_sided=False)
        mechanism.load_state_dict(other.state_dict())


def test_the_plan_is_that_of_safe_kernels() -> None:
    """The stubs above stand in for these."""
    linears = layers(1)
    mechanism = elastic(linears)
    set_gradients(linears)
    mechanism.after_retention_backward()
    assert isinstance(mechanism._plan, EwcPlan)
