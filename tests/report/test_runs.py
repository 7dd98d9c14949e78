"""Run folders are found, read whole or left out by name, and never mixed."""

import itertools
import json
import re
import shutil
from dataclasses import asdict, replace

import pytest

from safe_train.errors import InputError
from safe_train.evaluation.results import Evaluation
from safe_train.io.records import from_plain
from safe_train.report import read_runs
from safe_train.report.runs import fullest

ALL_CLIPS = ("matched", "silence", "distractor", "loud")


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


def test_of_two_lines_of_a_step_the_later_counts(make_run, tmp_path):
    """A run that goes on from an older checkpoint writes the steps behind it again."""
    run = make_run(tmp_path)
    (before,) = read_runs([run]).runs
    step = before.curves[0]["step"]
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "kl": 77.0}) + "\n")
    (found,) = read_runs([run]).runs
    assert found.curves == [{"step": step, "kl": 77.0}, *before.curves[1:]]


def test_rows_count_before_conditions(make_run, tmp_path):
    """A look at a few rows under every condition is no measurement, whichever was first."""
    (few,) = read_runs([make_run(tmp_path / "few", rows=12, conditions=("bypass", "silence", "loud", "noise"))]).runs
    (many,) = read_runs([make_run(tmp_path / "many", conditions=("bypass", "silence"))]).runs
    assert few.evaluation.conditions > many.evaluation.conditions
    assert few.evaluation.rows.total < many.evaluation.rows.total
    found = [few.evaluation, many.evaluation]
    assert fullest(found) is fullest(found[::-1]) is many.evaluation


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
    del content["evaluation"]["vl"]["silence"]["is_measurement"], content["sha256"]
    path.write_text(json.dumps(content))
    (left,) = read_runs([run]).left_out
    assert "results.json has vl.silence: no 'is_measurement'" in left.reason


@pytest.mark.parametrize("line", [b'{"step": 60, "kl"', b'{"step": 60, "kl": "high"}', b'{"kl": 1}', b"\xff", b"[]"])
def test_a_broken_line_of_metrics_is_named(make_run, tmp_path, line):
    run = make_run(tmp_path)
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(line + b"\n")
    (left,) = read_runs([run]).left_out
    assert left.reason == "line 6 of metrics.jsonl is none; remove the line"


def test_a_line_of_metrics_that_a_crash_cut_off_is_no_obstacle(make_run, tmp_path):
    run = make_run(tmp_path)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 60, "kl"')
    assert len(read_runs([run]).runs[0].curves) == 5


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b"[" * 100_000, b"{}", b'{"evaluation": []}'])
@pytest.mark.parametrize("name", ["metrics.json", "config.json", "evaluation/*/results.json"])
def test_a_damaged_file_of_a_run_leaves_it_out_by_name(make_run, tmp_path, name, content):
    make_run(tmp_path, seed=43)
    run = make_run(tmp_path, seed=42)
    (path,) = run.glob(name)
    path.write_bytes(content)
    found = read_runs([tmp_path])
    if (name, content) != ("config.json", b"{}"):  # these are the defaults
        assert [left.folder for left in found.left_out] == [str(run)]
    assert "\n" not in "".join(left.reason for left in found.left_out)


def flipped(content):
    """The content with each digit of its figures changed in turn, one at a time."""
    at = content.index('"evaluation"')
    for match in re.finditer(r"\d", content[at : content.index('"finished_at"')]):
        place = at + match.start()
        yield content[:place] + str((int(match[0]) + 1) % 10) + content[place + 1 :]


def test_a_changed_figure_of_an_evaluation_is_told(make_run, tmp_path):
    run = make_run(tmp_path)
    (path,) = run.glob("evaluation/*/results.json")
    content = path.read_text()
    for changed in itertools.islice(flipped(content), 0, None, 40):
        path.write_text(changed)
        (left,) = read_runs([run]).left_out
        assert left.reason == (
            "results.json whose figures are not those that were written; evaluate again with: safe eval " + str(run)
        )
    assert changed != content


def test_results_of_an_earlier_version_have_no_digest(make_run, tmp_path):
    run = make_run(tmp_path)
    (path,) = run.glob("evaluation/*/results.json")
    content = json.loads(path.read_text())
    assert len(content.pop("sha256")) == 64
    path.write_text(json.dumps(content))
    assert len(read_runs([run]).runs) == 1


def test_damaged_results_are_written_anew_and_told(make_run, tmp_path, caplog):
    run = make_run(tmp_path)
    (path,) = run.glob("evaluation/*/results.json")
    path.write_bytes(path.read_bytes()[:100])
    make_run(tmp_path)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{path}: expected results of this version, got ")
    assert len(read_runs([run]).runs) == 1


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("2026-10-25T02:50:00+02:00", "2026-10-25T02:10:00+01:00"),  # the hour that comes twice
        ("2026-03-29T01:59:59+01:00", "2026-03-29T03:00:00+02:00"),
        ("2026-10-25T02:50:00+02:00", "2026-10-25T00:55:00+00:00"),  # a cluster that runs on universal time
    ],
)
def test_of_equal_evaluations_the_later_counts_whatever_the_clocks_say(make_run, tmp_path, earlier, later):
    evaluation = read_runs([make_run(tmp_path)]).runs[0].evaluation
    first, second = (replace(evaluation, finished_at=time) for time in (earlier, later))
    assert fullest([first, second]) is fullest([second, first]) is second


def test_an_evaluation_without_a_time_is_none_of_this_version(make_run, tmp_path):
    run = make_run(tmp_path)
    (path,) = run.glob("evaluation/*/results.json")
    content = json.loads(path.read_text()) | {"finished_at": "yesterday"}
    del content["sha256"]
    path.write_text(json.dumps(content))
    (left,) = read_runs([run]).left_out
    assert "yesterday" in left.reason


def test_a_folder_without_runs(tmp_path):
    with pytest.raises(InputError, match="expected the metrics of a finished run"):
        read_runs([tmp_path])
