"""A new retention mechanism is a class and a line of the registry: everything else finds it there."""

import pytest

from safe_train.cli.progress import format_metrics
from safe_train.configs import retention_variants
from safe_train.errors import InputError
from safe_train.estimate import plan_run
from safe_train.report.charts.figures import training_metrics
from safe_train.retention import MECHANISMS
from tests.retention.l2_anchor import PROBE, L2Anchor
from tests.tolerances import relative_error


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setitem(MECHANISMS, L2Anchor.name, L2Anchor)


@pytest.fixture
def probe(monkeypatch):
    """A variant that has it on."""
    registry = {"probe": PROBE, "no_retention": retention_variants.NO_RETENTION}
    monkeypatch.setattr(retention_variants, "RETENTION_VARIANTS", registry)


def test_the_trainer_trains_with_it(registered, probe, configure, prepare):
    trainer = prepare(configure(variant="probe", optimization__max_grad_norm=1e9))
    trainer.train_step()
    (mechanism,) = trainer.retention.mechanisms
    assert mechanism.weight == 3.0
    assert trainer.retention.metrics()["anchor"] > 0
    batch, gradients = trainer.batches.at(trainer.step), []
    for mechanism.weight in (3.0, 0.0):
        trainer.optimizer.zero_grad()
        trainer.compute_gradient(batch.task, batch.retention)
        gradients.append({name: module.weight.grad.clone() for name, module in mechanism.linears.items()})
    for name, module in mechanism.linears.items():
        pull = gradients[0][name] - gradients[1][name]
        moved = module.weight.detach() - mechanism.anchors[name]
        assert relative_error(pull, 3.0 * moved) < 1e-3


def test_a_run_describes_it(registered, probe, configure, prepare):
    effective = prepare(configure(variant="probe")).described_configuration()["effective"]
    assert effective["retention"]["anchor_coefficient"] == 3.0
    assert effective["retention_variant"]["extra_mechanisms"] == {"L2 anchor": {"weight": 1.5}}


def test_the_dry_run_counts_it(registered, probe, configure):
    plan = plan_run(configure(variant="probe"))
    assert plan.num_calibrations == {"L2 anchor": 1}
    assert plan.calibrations["L2 anchor"].cost.flops > 0
    assert "L2 anchor" not in plan_run(configure(variant="no_retention")).calibrations


def test_report_progress_and_list_show_it(registered, capsys, monkeypatch):
    assert "anchor" in [metric.key for metric in training_metrics()]
    assert "anchor 0.5" in format_metrics({"audio_loss": 1.0, "anchor": 0.5})
    monkeypatch.setattr(retention_variants, "RETENTION_VARIANTS", {"probe": PROBE})
    retention_variants.list_variants()
    assert "L2 anchor (weight 1.5)" in capsys.readouterr().out


def test_without_the_line_it_is_refused(probe, configure, prepare):
    with pytest.raises(InputError, match="unknown retention mechanism 'L2 anchor', known are KL, replay, Fisher"):
        prepare(configure(variant="probe"))
