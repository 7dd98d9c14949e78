"""Each field of a variant changes what it says it changes, and nothing else."""

import dataclasses

import pytest
import torch

from safe_train.configs import retention_variants
from safe_train.configs.retention_variants import RETENTION_VARIANTS, RetentionVariantConfig
from safe_train.retention import ElasticWeightConsolidation, NullSpaceProjection
from tests.tolerances import relative_error

FULL = RETENTION_VARIANTS["full_retention"]


@pytest.fixture
def trace(configure, prepare, monkeypatch):
    """Runs a variant for some steps; gives its gradients before clipping, its weights and its mechanisms."""

    def run(variant: RetentionVariantConfig, steps: int = 6, **settings):
        registry = {"probe": dataclasses.replace(variant, name="probe")}
        monkeypatch.setattr(retention_variants, "RETENTION_VARIANTS", registry)
        stage = prepare(configure(variant="probe", **settings))
        gradients = []
        clip = torch.nn.utils.clip_grad_norm_

        def recording(parameters, *args, **kwargs):
            parameters = list(parameters)
            gradients.append(torch.cat([p.grad.flatten().clone() for p in parameters]))
            return clip(parameters, *args, **kwargs)

        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", recording)
        metrics = [stage.train_step() for _ in range(steps)]
        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip)
        weights = torch.cat([p.detach().flatten() for p in stage.model.trainable_parameters().values()])
        return {"gradients": gradients, "weights": weights, "metrics": metrics, "stage": stage}

    return run


def changed(**fields) -> RetentionVariantConfig:
    return dataclasses.replace(FULL, **fields)


def test_order_and_initialization_are_the_same_for_every_variant(configure, prepare):
    drawn = []
    for variant in RETENTION_VARIANTS:
        stage = prepare(configure(variant=variant))
        rows = (
            [stage.batches.sampler.audio_batch(n, 4) for n in range(20)],
            [stage.batches.sampler.retention_batch(n, 4) for n in range(20)],
        )
        drawn.append((rows, {name: p.detach().clone() for name, p in stage.model.trainable_parameters().items()}))
    for rows, parameters in drawn[1:]:
        assert rows == drawn[0][0]
        assert all(torch.equal(parameters[name], drawn[0][1][name]) for name in parameters)


def test_the_same_variant_twice_gives_the_same_bits(trace):
    assert torch.equal(trace(FULL)["weights"], trace(FULL)["weights"])


def test_no_weights_and_no_projection_is_the_audio_loss_alone(trace):
    nothing = trace(RETENTION_VARIANTS["no_retention"])
    assert nothing["stage"].retention.mechanisms == []
    zeroed = trace(changed(retention_loss_weight=0.0, enable_null_space=False))
    assert torch.equal(nothing["weights"], zeroed["weights"])
    assert {"kl", "ewc", "null_space_removed"}.isdisjoint(nothing["metrics"][-1])


def test_distillation_weight_scales_the_kl_gradient_and_nothing_else(trace):
    """The first step's KL is zero, so the second step is the first that differs, and starts from the same weights."""
    base, once, twice = (
        trace(changed(distillation_weight=weight, fisher_weight=0.0, enable_null_space=False), steps=2)
        for weight in (0.0, 1e4, 2e4)  # large, since so early the KL is tiny
    )
    first, second = (run["gradients"][1] - base["gradients"][1] for run in (once, twice))
    assert all(torch.equal(base["gradients"][0], run["gradients"][0]) for run in (once, twice))
    assert first.norm() > 0
    assert relative_error(second, 2 * first) < 1e-4
    assert "kl" in once["metrics"][-1]
    assert "ewc" not in once["metrics"][-1]


def test_fisher_weight_scales_the_penalty_gradient_and_nothing_else(trace):
    settings = {"retention__fisher_start_ratio": 0.5}
    base, once, twice = (
        trace(changed(distillation_weight=0.0, fisher_weight=weight, enable_null_space=False), steps=5, **settings)
        for weight in (0.0, 1.0, 2.0)
    )
    assert all(torch.equal(a, b) for a, b in zip(base["gradients"][:4], once["gradients"][:4], strict=True))
    first, second = (run["gradients"][4] - base["gradients"][4] for run in (once, twice))
    assert first.norm() > 0
    assert relative_error(second, 2 * first) < 1e-4
    mechanism = next(m for m in once["stage"].retention.mechanisms if isinstance(m, ElasticWeightConsolidation))
    assert mechanism.weight == pytest.approx(1.0)
    assert "kl" not in once["metrics"][-1]


def test_retention_loss_weight_multiplies_both_losses_once(trace):
    for run, weight in ((trace(changed(retention_loss_weight=w)), w) for w in (1.0, 0.5)):
        effective = run["stage"].effective
        assert effective["kl_coefficient"] == pytest.approx(weight * 0.2)
        assert effective["fisher_coefficient"] == pytest.approx(weight * 0.1)
        last = run["metrics"][-1]
        assert last["retention_loss"] == pytest.approx(weight * 0.2 * last["kl"], rel=1e-5)


def test_enable_null_space_changes_updates_and_not_gradients(trace):
    off, on = (trace(changed(enable_null_space=flag), steps=3) for flag in (False, True))
    estimated = next(i for i, metrics in enumerate(on["metrics"]) if "null_space_removed" in metrics)
    before = zip(off["gradients"][: estimated + 1], on["gradients"][: estimated + 1], strict=True)
    assert all(torch.equal(a, b) for a, b in before)
    assert not torch.equal(off["weights"], on["weights"])


def test_rank_min_samples_and_refresh_reach_the_mechanism(trace):
    run = trace(
        changed(null_space_rank=3, null_space_min_samples=3, null_space_refresh_interval=6), optimization__max_steps=40
    )
    mechanism = next(m for m in run["stage"].retention.mechanisms if isinstance(m, NullSpaceProjection))
    assert {basis.rank for basis in mechanism.bases.values()} <= {1, 2, 3}
    assert max(basis.rank for basis in mechanism.bases.values()) == 3
    assert (mechanism.min_samples, mechanism.refresh_interval) == (3, 6)
    assert mechanism.computed_at == 20  # a step sees 4 rows: first due at 3, then at 4 + 6, then at 12 + 6


def test_short_runs_shrink_the_thresholds_and_say_so(trace, caplog):
    caplog.set_level("INFO", logger="safe_train")
    effective = trace(FULL, steps=1)["stage"].effective
    assert (effective["null_space_min_samples"], effective["null_space_refresh_interval"]) == (4, 8)
    assert "null_space_min_samples: 4 instead of 128, since only 32 retention examples go by" in caplog.text
    assert "null_space_refresh_interval: 8 instead of 4000" in caplog.text


def test_a_new_variant_is_one_constant_and_one_entry(trace):
    only_null_space = changed(retention_loss_weight=0.0)
    run = trace(only_null_space)
    assert [mechanism.name for mechanism in run["stage"].retention.mechanisms] == ["null space"]
    assert run["metrics"][-1]["null_space_leakage"] < 1e-5


def test_a_mechanism_that_never_acts_is_named(trace):
    run = trace(changed(enable_null_space=False), steps=2, retention__fisher_start_ratio=0.9)
    assert run["stage"].retention.inactive() == ["Fisher"]


def test_silent_protected_rows_still_have_audio_attached(configure, prepare):
    stage = prepare(configure(variant="full_retention", data__silence_prob=1.0))
    batch = next(stage._calibration_batches(4))
    silence = stage.batches.collator.features.get([None])[0].values
    assert torch.equal(batch.features[0].values, silence.expand_as(batch.features[0].values))
    stream = prepare(configure(data__silence_prob=0.3)).batches.sampler
    rows = [row for number in range(50) for row in stream.retention_batch(number, 4)]
    assert 0.2 < sum(row.audio is None for row in rows) / len(rows) < 0.4


def test_no_teacher_is_asked(prepare, configure):
    """The teacher of a variant with replay alone is never computed."""
    stage = prepare(configure(variant="replay_only"))

    def teacher(_batch):
        raise AssertionError("the teacher was asked")

    stage.retention.model.teacher = teacher
    metrics = stage.train_step()
    assert metrics["replay_loss"] > 0
