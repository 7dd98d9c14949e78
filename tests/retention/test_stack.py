"""From a variant and a run's settings to mechanisms: every number arrives, once, where it belongs."""

import dataclasses
from typing import Any

import pytest
import torch

from safe_train.configs.retention_variants import RETENTION_VARIANTS, RetentionVariantConfig
from safe_train.distributed.processes import Processes
from safe_train.retention import (
    Distillation,
    ElasticWeightConsolidation,
    NullSpaceProjection,
    RetentionStack,
    RunLength,
    TrainingContext,
    build_mechanisms,
)
from safe_train.retention.replay import Replay
from safe_train.retention.settings import RetentionSettings
from safe_train.retention.stack import resolve_retention, resolve_variant
from tests.retention.toy import ToyModel

# Weights whose products tell which factors are in them.
VARIANT = RetentionVariantConfig(
    name="all",
    description="All mechanisms.",
    retention_loss_weight=3.0,
    distillation_weight=5.0,
    fisher_weight=7.0,
    replay_weight=11.0,
    enable_null_space=True,
    null_space_rank=2,
    null_space_min_samples=12,
    null_space_refresh_interval=24,
)


def build(
    settings: RetentionSettings, variant: RetentionVariantConfig = VARIANT, **options: Any
) -> tuple[ToyModel, RetentionStack]:
    model = ToyModel()
    context = TrainingContext(
        model, model.linears, model.batches, torch.optim.AdamW(model.parameters()), RunLength(100, 6), **options
    )
    return model, build_mechanisms(variant, settings, context)


@pytest.mark.parametrize("scale", [1.0, 13.0, 0.25])
def test_the_scale_and_the_loss_weight_multiply_every_term_once(scale):
    effective = resolve_retention(VARIANT, RetentionSettings(retention_scale=scale), RunLength(100, 6))
    assert effective["kl_coefficient"] == pytest.approx(scale * 3 * 5)
    assert effective["fisher_coefficient"] == pytest.approx(scale * 3 * 7)
    assert effective["replay_coefficient"] == pytest.approx(scale * 3 * 11)
    _, stack = build(RetentionSettings(retention_scale=scale))
    assert {type(m): m.weight for m in stack.mechanisms if hasattr(m, "weight")} == {
        Distillation: pytest.approx(scale * 15),
        ElasticWeightConsolidation: pytest.approx(scale * 21),
        Replay: pytest.approx(scale * 33),
    }


def test_the_scale_scales_the_gradient_of_every_loss_and_the_observed_values_not():
    """The pull on the weights, all mechanisms one at a time, is that of scale 1 times the scale."""
    for kept in ("distillation_weight", "fisher_weight", "replay_weight"):
        off = dict.fromkeys({"distillation_weight", "fisher_weight", "replay_weight"} - {kept}, 0.0)
        variant = dataclasses.replace(VARIANT, enable_null_space=False, **off)
        pulls = []
        for scale in (1.0, 4.0):
            model, stack = build(RetentionSettings(retention_scale=scale, fisher_start_ratio=0.0), variant)
            stack.before_step(0, 0)
            model.first.weight.data.mul_(1.01)
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            if stack.adds_loss:
                stack.loss(model.batch(0)).backward()
            stack.after_retention_backward()
            pulls.append(model.first.weight.grad)
        assert pulls[0].norm() > 0
        torch.testing.assert_close(pulls[1], 4.0 * pulls[0], rtol=1e-5, atol=0.0)


SETTINGS = [
    ({"divergence": "reverse"}, Distillation, "divergence", "reverse"),
    ({"divergence": "jsd"}, Distillation, "divergence", "jsd"),
    ({"temperature": 1.5}, Distillation, "temperature", 1.5),
    ({"fisher_trace": 17.0}, ElasticWeightConsolidation, "trace", 17.0),
    ({"fisher_samples": 18}, ElasticWeightConsolidation, "num_samples", 18),
    ({"fisher_labels": "empirical"}, ElasticWeightConsolidation, "labels", "empirical"),
    ({"fisher_start_ratio": 0.4}, ElasticWeightConsolidation, "calibrate_at", 40),
    ({"null_space_target": "update"}, NullSpaceProjection, "projects", "update"),
    ({"null_space_one_sided": False}, NullSpaceProjection, "one_sided", False),
    ({"null_space_subspace": "activation", "null_space_one_sided": False}, NullSpaceProjection, "subspace",
     "activation"),
    ({"null_space_energy": 0.75}, NullSpaceProjection, "energy", 0.75),
    ({"null_space_memory_gib": 0.5}, NullSpaceProjection, "memory", 2**29),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "mechanism", "attribute", "expected"), SETTINGS)
def test_every_setting_reaches_its_mechanism(settings, mechanism, attribute, expected):
    def found(given: dict[str, Any]) -> Any:
        _, stack = build(RetentionSettings(**given))
        (only,) = [m for m in stack.mechanisms if isinstance(m, mechanism)]
        return getattr(only, attribute)

    assert found(settings) == expected
    assert found({}) != expected  # negative control: it is not the default


@pytest.mark.parametrize("field", ["null_space_rank", "null_space_min_samples", "null_space_refresh_interval"])
def test_a_setting_of_the_run_replaces_the_variants(field):
    settings = RetentionSettings(**{field: 19})
    resolved = resolve_variant(VARIANT, settings)
    assert resolved == dataclasses.replace(VARIANT, **{field: 19})
    assert resolve_variant(VARIANT, RetentionSettings()) == VARIANT
    _, stack = build(settings, resolved)
    (null_space,) = [m for m in stack.mechanisms if isinstance(m, NullSpaceProjection)]
    assert getattr(null_space, field.removeprefix("null_space_")) == 19


def test_seed_and_processes_reach_the_mechanisms():
    processes = Processes()
    _, stack = build(RetentionSettings(), seed=23, collectives=processes)
    assert [m.seed for m in stack.mechanisms if isinstance(m, ElasticWeightConsolidation)] == [23]
    assert all(m.collectives is processes for m in stack.mechanisms)
    assert stack.collectives is processes


@pytest.mark.parametrize(
    ("steps", "rows_per_step", "min_samples", "refresh"),
    [
        (1000, 6, 12, 24),  # long enough for the registered ones
        (10, 6, 6, 15),  # a tenth of 60 rows, a quarter of them
        (5, 6, 6, 7),  # at least the rows of a step
        (1, 6, 6, 6),  # and a refresh not before the first estimate
    ],
)
def test_thresholds_are_fitted_to_the_rows_of_the_run(steps, rows_per_step, min_samples, refresh):
    effective = resolve_retention(VARIANT, RetentionSettings(), RunLength(steps, rows_per_step))
    assert effective["null_space_min_samples"] == min_samples
    assert effective["null_space_refresh_interval"] == refresh


@pytest.mark.parametrize("name", list(RETENTION_VARIANTS))
def test_a_variants_mechanisms_are_those_that_it_names(name):
    variant = RETENTION_VARIANTS[name]
    _, stack = build(RetentionSettings(), variant)
    assert {m.name for m in stack.mechanisms} == set(variant.mechanisms)
    assert stack.adds_loss == (variant.kl_coefficient > 0 or variant.replay_coefficient > 0)


def test_the_loss_is_the_sum_of_all_terms():
    model, stack = build(RetentionSettings())
    batch = model.batch(0)
    states, teacher = model.student(batch), model.teacher(batch)
    terms = [m.loss(states, teacher) for m in stack.mechanisms if isinstance(m, Distillation | Replay)]
    assert len(terms) == 2
    torch.testing.assert_close(stack.loss(batch), terms[0] + terms[1])


def test_every_hook_reaches_every_mechanism():
    _, stack = build(RetentionSettings())
    calls: list[tuple[int, str]] = []
    hooks = {
        "before_step": (3, 18),
        "after_task_backward": (),
        "after_retention_backward": (),
        "before_optimizer_step": (0.5,),
        "after_optimizer_step": (),
    }
    for number, mechanism in enumerate(stack.mechanisms):
        for name, arguments in hooks.items():

            def noting(*given, number=number, name=name, arguments=arguments):
                assert given == arguments
                calls.append((number, name))

            setattr(mechanism, name, noting)
    for name, arguments in hooks.items():
        getattr(stack, name)(*arguments)
    assert calls == [(number, name) for name in hooks for number in range(len(stack.mechanisms))]
    for wanted in (False, True):
        stack.record_metrics(wanted)
        assert {mechanism.records_metrics for mechanism in stack.mechanisms} == {wanted}
