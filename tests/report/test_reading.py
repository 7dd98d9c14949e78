"""Run folders are found, read whole or left out by name, and never mixed."""

import json
import shutil
from dataclasses import asdict

import pytest

from safe_train.errors import InputError
from safe_train.evaluation.results import Evaluation
from safe_train.plain import from_plain
from safe_train.report import read_runs
from safe_train.report.grouping import group_runs

ALL_CLIPS = ("matched", "silence", "distractor", "loud")


def groups_of(*paths):
    return group_runs(read_runs(paths).runs)


def test_runs_are_found_at_any_depth_and_once(make_run, tmp_path):
    run = make_run(tmp_path / "a" / "b", seed=1)
    other = make_run(tmp_path / "c", seed=2)
    found = read_runs([tmp_path, other])
    assert {read.folder for read in found.runs} == {run, other}
    assert len(found.summaries) == 3  # as named


def test_records_survive_json(make_run, tmp_path):
    stored = read_runs([make_run(tmp_path, losses={"silence": 3})]).runs[0].evaluation.result
    assert from_plain(Evaluation, json.loads(json.dumps(asdict(stored)))) == stored


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("base"), "no 'base'"),
        (lambda v: v.update(more=1), "an unknown 'more'"),
        (lambda v: v["vl"]["silence"].update(kl="0.1"), "vl.silence.kl: not float but str"),
        (lambda v: v["vl"]["silence"].update(rows=True), "vl.silence.rows: not int but bool"),
        (lambda v: v["vl"].update(silence=[]), "vl.silence: not an object but list"),
    ],
)
def test_records_of_another_make_are_refused(make_run, tmp_path, change, message):
    values = asdict(read_runs([make_run(tmp_path)]).runs[0].evaluation.result)
    change(values)
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        from_plain(Evaluation, values)


def test_of_evaluations_with_as_many_rows_the_one_with_the_most_conditions_counts(make_run, tmp_path):
    run = make_run(tmp_path, audio_conditions=ALL_CLIPS, conditions=("bypass", "silence", "distractor", "loud"))
    make_run(tmp_path)  # newer, with fewer
    assert "loud" in read_runs([run]).runs[0].evaluation.result.vl


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
        ({"data.silence_share": "0.25"}, "full_retention (silence_share 0.25)"),
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


def test_unfinished_and_unevaluated_runs_are_named(make_run, tmp_path):
    make_run(tmp_path / "done")
    unfinished = make_run(tmp_path / "unfinished")
    (unfinished / "metrics.json").unlink()
    bare = make_run(tmp_path / "bare")
    shutil.rmtree(bare / "evaluation")
    found = read_runs([tmp_path])
    assert len(found.runs) == 1
    reasons = {left.folder: left.reason for left in found.left_out}
    assert reasons[str(unfinished)] == "not finished, there is no metrics.json"
    assert reasons[str(bare)] == f"no stored answers; make them with: safe eval {bare}"


def test_results_of_another_version_are_left_out_by_name(make_run, tmp_path):
    run = make_run(tmp_path)
    path = next(run.glob("evaluation/*/results.json"))
    content = json.loads(path.read_text())
    del content["evaluation"]["vl"]["silence"]["is_measurement"]
    path.write_text(json.dumps(content))
    (left,) = read_runs([run]).left_out
    assert "results.json has vl.silence: no 'is_measurement'" in left.reason


def test_a_broken_line_of_metrics_is_named(make_run, tmp_path):
    run = make_run(tmp_path)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 60, "kl"')
    (left,) = read_runs([run]).left_out
    assert left.reason == "line 6 of metrics.jsonl is none; remove the line"


def test_a_folder_without_runs(tmp_path):
    with pytest.raises(InputError, match="expected the metrics of a finished run"):
        read_runs([tmp_path])
