"""The table of an evaluation holds every condition with its figures, in the units that it names."""

import re
from dataclasses import replace

import pytest

from safe_train.evaluation.results import CaptionFigures
from safe_train.evaluation.table import ANSWERS_HEADER, AUDIO_HEADER, DOCUMENTS_HEADER, format_evaluation
from safe_train.metrics.intervals import Estimate
from safe_train.report import read_runs

EVERY = ("bypass", "silence", "distractor", "contradictory", "loud", "noise", "worst_of_4")


@pytest.fixture
def evaluation(make_run, tmp_path):
    run = make_run(
        tmp_path, conditions=EVERY, losses={"distractor": 6}, text_losses={"silence": 3}, bits={"noise": 0.25}
    )
    return read_runs([run]).runs[0].evaluation.result


def tables(text):
    """Rows by the table's first line and the row's first cell."""
    found = {}
    for part in re.split(r"\n\n(?=\S+.*: )", text):
        title, _, header, _rule, *rows = part.splitlines()
        found[title] = {
            cells[0]: dict(zip(re.split(r" {2,}", header), cells, strict=True))
            for cells in (re.split(r" {2,}", row) for row in rows)
        }
    return found


def test_every_condition_has_its_figures(evaluation):
    """6 of 60 and 3 of 60 answers are lost; the documents of one condition take a quarter of a bit more."""
    found = {title: rows for title, rows in tables(format_evaluation(evaluation)).items() if " by type: " not in title}
    vl, text, documents, audio = found.items()
    assert vl[0] == "VL questions: base accuracy 100.0 %"
    assert tuple(vl[1]) == EVERY
    assert vl[1]["bypass"]["change [95 %]"] == "bit-equal"
    assert vl[1]["distractor"] | {"change [95 %]": "", "KL": ""} == dict(
        zip(ANSWERS_HEADER, ("distractor", "60", "90.0 %", "", "10.0 %", ""), strict=True)
    )
    assert vl[1]["distractor"]["change [95 %]"].startswith("-10.0 [-")
    assert vl[1]["silence"]["change [95 %]"].startswith("+0.0 [-")
    assert float(vl[1]["distractor"]["KL"]) == pytest.approx(evaluation.vl["distractor"].kl, abs=5e-5)
    assert text[0] == "text-only questions: base accuracy 100.0 %"
    assert text[1]["silence"]["change [95 %]"].startswith("-5.0 [-")
    assert documents[0].startswith("documents: base ")
    assert tuple(documents[1]["noise"]) == DOCUMENTS_HEADER
    assert documents[1]["noise"]["change [95 %]"].startswith("+0.250 [")
    assert audio[0] == "audio examples: scored by exact match"
    assert tuple(audio[1]["silence"]) == AUDIO_HEADER
    assert audio[1]["matched"]["score [95 %]"].startswith("100.0 % [")
    assert audio[1]["silence"]["gain of matched [95 %]"].startswith("+100.0 [")
    assert audio[1]["matched"]["gain of matched [95 %]"] == "-"


def test_accuracy_is_told_by_type_where_there_are_several(evaluation):
    by_type = {"bypass": {"color": 1.0, "count": 0.5}, "noise": {"color": 0.25}}
    vl = {name: replace(evaluation.vl[name], by_kind=kinds) for name, kinds in by_type.items()}
    text = {name: replace(result, by_kind={"plural": 1.0}) for name, result in evaluation.text.items()}
    audio = {"matched": replace(evaluation.audio["matched"], by_kind={"a": 0.5, "b": 0.0})}
    found = tables(format_evaluation(replace(evaluation, vl=vl, text=text, audio=audio, audio_metric="cider_d")))
    assert {title: rows for title, rows in found.items() if " by type: " in title} == {
        "VL questions by type: accuracy": {
            "color": {"type": "color", "bypass": "100.0 %", "noise": "25.0 %"},
            "count": {"type": "count", "bypass": "50.0 %", "noise": "-"},
        },
        "audio examples by type: CIDEr-D": {
            "a": {"type": "a", "matched": "5.00"},
            "b": {"type": "b", "matched": "0.00"},
        },
    }


def test_a_bypass_that_differs_is_told(evaluation):
    differing = replace(evaluation, vl={"bypass": replace(evaluation.vl["bypass"], bit_equal=False)})
    assert "DIFFERS" in format_evaluation(differing)
    assert "DIFFERS" not in format_evaluation(evaluation)


def test_cider_d_runs_from_0_to_10(evaluation):
    """Results hold a tenth of it."""
    matched = replace(evaluation.audio["matched"], accuracy=Estimate(0.123, 0.1, 0.15))
    text = format_evaluation(replace(evaluation, audio={"matched": matched}, audio_metric="cider_d"))
    assert re.search(r"audio examples: scored by CIDEr-D\n.*\n.*\n.*\nmatched +8 +1\.23 \[1\.00, 1\.50\] +-$", text)


def test_what_was_not_measured_has_no_table(evaluation):
    without = replace(evaluation, text={}, base_text=None, documents={}, base_bits_per_byte=None)
    assert list(tables(format_evaluation(without))) == [
        "VL questions: base accuracy 100.0 %",
        "VL questions by type: accuracy",
        "audio examples: scored by exact match",
    ]


def test_it_fits_a_terminal(evaluation):
    assert max(map(len, format_evaluation(evaluation, 80).splitlines())) <= 80


def test_caption_metrics_have_their_lines(evaluation):
    """With what could not be computed and why, once for all conditions."""
    assert "captions" not in format_evaluation(evaluation)
    missing = {"SPICE": "needs the SPICE program"}
    figures = CaptionFigures(rows=60, means={"CIDEr-D": 7.125}, tokenizers={"CIDEr-D": "ptb"}, left_out=missing)
    scored = {name: replace(result, captions=figures) for name, result in evaluation.audio.items()}
    lines = format_evaluation(replace(evaluation, audio=scored)).splitlines()
    assert [line for line in lines if "CIDEr-D" in line] == [f"captions, {name}: CIDEr-D 7.12" for name in scored]
    assert [line for line in lines if "SPICE" in line] == ["SPICE left out: needs the SPICE program"]
