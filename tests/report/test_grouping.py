"""Which runs are seeds of one variant."""

import shutil

import pytest

from safe_train.report import read_runs
from safe_train.report.grouping import group_runs


def groups_of(*paths):
    return group_runs(read_runs(paths).runs)


def test_a_damaged_model_is_an_arm_of_its_own(make_run, tmp_path):
    make_run(tmp_path)
    run = make_run(tmp_path, damage=2.0, losses={"silence": 60, "distractor": 60})
    groups, _ = groups_of(run)
    assert [(group.name, group.damage) for group in groups] == [
        ("full_retention", 0.0),
        ("full_retention, damaged by 2", 2.0),
    ]
    assert groups[0].members[0].evaluation.result.vl["silence"].difference.mean == 0.0
    assert groups[1].members[0].evaluation.result.vl["silence"].difference.mean == -1.0


def test_seeds_of_equal_settings_are_one_arm_in_the_order_of_the_registry(make_run, tmp_path):
    for variant in ("full_retention", "no_retention"):
        for seed in (43, 42):
            make_run(tmp_path, variant, seed)
    groups, _ = groups_of(tmp_path)
    assert [(group.name, [member.seed for member in group.members]) for group in groups] == [
        ("no_retention", [42, 43]),
        ("full_retention", [42, 43]),
    ]


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"data.silence_prob": "0.25"}, "full_retention (silence_prob 0.25)"),
        ({"evaluation.margin": "0.01"}, "full_retention (margin 0.01)"),
    ],
)
def test_runs_of_other_settings_are_never_averaged(make_run, tmp_path, settings, name):
    make_run(tmp_path, seed=42)
    make_run(tmp_path, seed=43, settings=settings)
    groups, _ = groups_of(tmp_path)
    assert [group.name for group in groups] == ["full_retention", name]


def test_settings_that_change_no_answer_make_no_arm(make_run, tmp_path):
    make_run(tmp_path, seed=42)
    make_run(tmp_path, seed=43, settings={"log_every": "5", "output_root": "elsewhere"})
    groups, _ = groups_of(tmp_path)
    assert [len(group.members) for group in groups] == [2]


def test_the_same_run_twice_is_no_second_seed(make_run, tmp_path):
    run = make_run(tmp_path / "a")
    shutil.copytree(run, tmp_path / "b" / run.name)
    groups, left_out = groups_of(tmp_path)
    assert [len(group.members) for group in groups] == [1]
    assert "the same settings and seed as" in left_out[0].reason
