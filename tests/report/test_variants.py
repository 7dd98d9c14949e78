"""Figures over seeds: against published tables and closed forms, with controls that the wrong method would pass."""

import pytest

from safe_train.report import read_runs
from safe_train.report.grouping import group_runs
from safe_train.report.variants import build_variants
from safe_train.report.verdict import passed_controls, verdict, warnings


def built(*paths):
    groups, _ = group_runs(read_runs(paths).runs)
    return build_variants(groups), groups


def test_figures_of_a_condition_are_means_over_seeds(make_run, tmp_path):
    for seed, lost in ((42, 6), (43, 12)):
        make_run(tmp_path, seed=seed, losses={"distractor": lost})
    ((arm,), _) = built(tmp_path)
    cell = arm.vl["distractor"]
    assert cell.change_by_seed == pytest.approx([-0.1, -0.2])
    assert cell.change.mean == pytest.approx(-0.15)
    assert (cell.right_to_wrong, cell.wrong_to_right) == pytest.approx((0.15, 0.0))
    assert cell.kl == pytest.approx((0.1 * 2.0 + 0.9 * 0.001 + 0.2 * 2.0 + 0.8 * 0.001) / 2)
    assert cell.updates == pytest.approx([0.8, 0.4])
    assert cell.rows == [60, 60]
    assert arm.worst_condition == "distractor"
    assert arm.gain is not None
    assert arm.gain.mean == 1.0


def test_mcnemar_is_corrected_over_arms_and_not_over_controls(make_run, tmp_path):
    for variant, lost in (("no_retention", 9), ("soft_retention", 7), ("full_retention", 0)):
        make_run(tmp_path, variant, losses={"silence": lost})
    make_run(tmp_path, damage=2.0, losses={"silence": 60})
    arms, _ = built(tmp_path)
    found = {arm.name: arm.vl["silence"].mcnemar_p_holm for arm in arms}
    assert found == pytest.approx(
        {  # two-sided exact p of n losses and no gain is 2 / 2^n; three arms
            "no_retention": 3 * 2 / 2**9,
            "soft_retention": 2 * 2 / 2**7,
            "full_retention": 1.0,
            "full_retention, damaged by 2": None,
        }
    )


WIDE_MARGIN = {"evaluation.margin": "0.095"}  # that 60 rows can establish, with one loss too


def test_non_inferiority_needs_every_seed_and_the_interval_over_them(make_run, tmp_path):
    for seed, lost in ((1, 0), (2, 0), (3, 1)):
        make_run(tmp_path / "all", seed=seed, losses={"silence": lost}, settings=WIDE_MARGIN)
    for seed, lost in ((1, 0), (2, 0), (3, 6)):
        make_run(tmp_path / "one fails", seed=seed, losses={"silence": lost}, settings=WIDE_MARGIN)
    ((good,), _), ((bad,), _) = built(tmp_path / "all"), built(tmp_path / "one fails")
    assert good.vl["silence"].margin.established
    assert good.vl["silence"].status == "non-inferior"
    # The mean loss of 3.3 points is within the margin of 9.5, and two of three seeds establish it.
    assert bad.vl["silence"].margin.established_in == 2
    assert not bad.vl["silence"].margin.established
    assert bad.vl["silence"].status == "open"


def test_too_few_rows_without_a_loss_prove_nothing(make_run, tmp_path):
    for seed in (1, 2, 3):
        make_run(tmp_path, seed=seed)
    ((arm,), _) = built(tmp_path)
    cell = arm.vl["silence"]
    limit = 1 - 0.025 ** (1 / 30)  # Clopper and Pearson's of 30 images; an interval over seeds is 0 to 0: proven
    assert (cell.change.low, cell.change.high) == pytest.approx((-limit, limit))
    assert cell.status == "open"
    assert cell.margin.rows_needed > 60


def test_without_effect_there_is_no_measurement(make_run, tmp_path):
    make_run(tmp_path, seed=1)
    make_run(tmp_path, seed=2, updates=(0.0, 0.0))
    arms, groups = built(tmp_path)
    assert arms[0].vl["silence"].status == "not a measurement"
    assert any("this is not a retention measurement" in warning for warning in warnings(arms, groups))
    assert "Nothing was measured" in verdict(arms)


def test_a_bypass_that_differs_is_the_first_warning(make_run, tmp_path):
    make_run(tmp_path, bypass_equal=False, settings=WIDE_MARGIN)
    arms, groups = built(tmp_path)
    assert arms[0].vl["bypass"].status == "differs"
    assert "not the base bit for bit" in warnings(arms, groups)[0]
    assert verdict(arms).startswith("No variant")
    assert arms[0].vl["silence"].status == "non-inferior"  # so that the bypass alone decides


def test_the_positive_control_must_fail(make_run, tmp_path):
    make_run(tmp_path / "good")
    good = make_run(tmp_path / "good", damage=2.0, losses={"silence": 60, "distractor": 60}, heard=0)
    make_run(tmp_path / "bad")
    bad = make_run(tmp_path / "bad", damage=2.0, losses={"distractor": 60}, heard=0)
    assert [passed_controls(group) for group in built(good)[1]] == [[], []]
    arms, groups = built(bad)
    assert [passed_controls(group) for group in groups] == [[], ["VL silence"]]
    assert any("did not fail: VL silence" in warning for warning in warnings(arms, groups))


def test_what_puts_a_comparison_in_doubt_is_told(make_run, tmp_path):
    make_run(tmp_path, "no_retention", 42)
    make_run(tmp_path, "full_retention", 43, inactive=("Fisher",))
    arms, groups = built(tmp_path)
    told = " ".join(warnings(arms, groups))
    assert "full_retention: Fisher was on but never became active." in told
    assert "The variants have different seeds" in told
    assert "No run has a positive control" in told


def test_the_verdict_names_who_keeps_and_who_loses(make_run, tmp_path):
    make_run(tmp_path, "no_retention", losses={"silence": 30}, settings=WIDE_MARGIN)
    make_run(tmp_path, "full_retention", settings=WIDE_MARGIN)
    assert verdict(built(tmp_path)[0]) == (
        "full_retention rules out a loss of 9.5 points under silence and distractor, the two that were measured, on VL "
        "questions, with one seed, while hearing adds 100.0 points; no_retention loses most, with a loss of 50.0 "
        "points on VL questions under silence. Text-only answers were not measured."
    )
