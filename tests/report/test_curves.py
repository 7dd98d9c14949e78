"""Training curves: means over seeds at common steps, thinned by means."""

import pytest

from safe_train.report import read_runs
from safe_train.report.curves import MOST_POINTS, curve
from safe_train.report.grouping import group_runs
from safe_train.report.variants import build_variants


def built(*paths):
    groups, _ = group_runs(read_runs(paths).runs)
    return build_variants(groups), groups


def test_curves_are_means_at_the_steps_of_all_seeds(make_run, tmp_path):
    make_run(tmp_path, seed=42, lines=5)
    make_run(tmp_path, seed=43, lines=3)
    _, (group,) = built(tmp_path)
    found = curve(group, "audio_loss")
    assert [point.step for point in found] == [10, 20, 30]
    assert (found[0].low, found[0].high) == (1.0, 2.0)
    assert found[0].mean == 1.5
    assert curve(group, "ewc") == []


def test_long_curves_are_thinned_by_means(make_run, tmp_path):
    run = make_run(tmp_path, lines=1_000)
    _, (group,) = built(run)
    found = curve(group, "audio_loss")
    assert len(found) <= MOST_POINTS
    assert found[0].mean == pytest.approx(sum(2.0 / (number + 1) for number in range(9)) / 9)
