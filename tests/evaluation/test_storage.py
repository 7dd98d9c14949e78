"""Results are added to what an earlier evaluation with the same key has measured, unless that is damaged."""

import json
from dataclasses import replace

import pytest

from safe_train.errors import InputError
from safe_train.evaluation.predictions import PredictionStore
from safe_train.evaluation.results import CaptionFigures
from safe_train.evaluation.storage import RESULTS, read_results, write_results
from safe_train.report import read_runs


@pytest.fixture
def evaluation(make_run, tmp_path):
    run = make_run(tmp_path / "runs", conditions=("bypass", "silence", "noise"))
    return read_runs([run]).runs[0].evaluation.result


@pytest.fixture
def write(tmp_path):
    """Writes results into one folder and gives back the figures that are in it then."""
    evaluations = tmp_path / "run" / "evaluation"
    store, base = PredictionStore(evaluations / "key"), PredictionStore(evaluations / "base-key")

    def written(evaluation):
        write_results(store, {"step": 1}, base, evaluation)
        return read_results(store.folder / RESULTS)["evaluation"]

    written.path = store.folder / RESULTS
    return written


def part(evaluation, *names, **changes):
    """The evaluation as if it had measured these conditions alone."""
    vl, audio, gain = (
        {name: results[name] for name in names if name in results}
        for results in (evaluation.vl, evaluation.audio, evaluation.audio_gain)
    )
    return replace(evaluation, vl=vl, audio=audio, audio_gain=gain, **changes)


def test_conditions_of_an_earlier_evaluation_stay(evaluation, write):
    write(part(evaluation, "silence", "bypass"))
    slower = replace(evaluation.vl["silence"], rows=7)
    found = write(replace(part(evaluation, "noise"), vl={"noise": evaluation.vl["noise"], "silence": slower}))
    assert set(found["vl"]) == {"bypass", "silence", "noise"}
    assert found["vl"]["silence"]["rows"] == 7  # what was measured twice is as it was measured last
    assert found["vl"]["bypass"] == json.loads(json.dumps(evaluation.to_dict()["vl"]["bypass"]))


def test_audio_rows_that_were_scored_by_another_metric_do_not(evaluation, write):
    assert "silence" in evaluation.audio
    write(part(evaluation, "silence"))
    found = write(part(evaluation, "matched", audio_metric="token_f1"))
    assert set(found["audio"]) == {"matched"}
    assert found["audio_gain"] == {}
    assert set(found["vl"]) == {"silence"}


def test_caption_metrics_stay_where_they_were_not_asked_for_again(evaluation, write):
    figures = CaptionFigures(rows=60, means={"CIDEr-D": 7.0}, tokenizers={"CIDEr-D": "ptb"}, left_out={})
    scored = {name: replace(result, captions=figures) for name, result in evaluation.audio.items()}
    write(replace(evaluation, audio=scored))
    found = write(evaluation)
    assert set(found["audio"]) == set(scored)
    assert all(result["captions"]["means"] == {"CIDEr-D": 7.0} for result in found["audio"].values())
    fewer = {name: replace(result, rows=result.rows - 1) for name, result in evaluation.audio.items()}
    assert {result["captions"] for result in write(replace(evaluation, audio=fewer))["audio"].values()} == {None}


@pytest.mark.parametrize("damage", ["cut", "changed", "another kind", "of another version"])
def test_damaged_results_are_told_and_left_out(evaluation, write, caplog, damage):
    write(part(evaluation, "silence"))
    content = json.loads(write.path.read_text())
    damaged = {
        "cut": write.path.read_text()[:-30],
        "changed": write.path.read_text().replace('"rows": ', '"rows": 1', 1),
        "another kind": "[]",
        "of another version": json.dumps({"evaluation": {"vl": content["evaluation"]["vl"]}}),
    }
    write.path.write_text(damaged[damage])
    found = write(part(evaluation, "noise"))
    assert set(found["vl"]) == {"noise"}
    (record,) = caplog.records
    assert record.getMessage().endswith("conditions that are not measured now are left out of it")


def test_changed_figures_are_refused(evaluation, write):
    write(evaluation)
    write.path.write_text(write.path.read_text().replace('"rows": ', '"rows": 1', 1))
    with pytest.raises(InputError, match="whose figures are not those that were written"):
        read_results(write.path)
