"""Figures from answers made up by hand, whose measures are known."""

from dataclasses import replace

from safe_train.evaluation.results import Evaluation, Worst
from safe_train.evaluation.summarize import summarize
from safe_train.io.records import from_plain
from safe_train.metrics.intervals import Estimate
from tests.evaluation.made import AUDIO, MARGIN, ROWS, audio, base, evaluation, heard, said_of_text, with_text


def test_a_positive_control_that_fails_everything_but_the_bypass_has_passed():
    ruined = evaluation(heard([0.0] * len(ROWS)), matched=1, silence=1)
    assert ruined.passed_although_damaged() == []


def test_a_positive_control_that_changes_nothing_is_told():
    """Negative control: what is not damaged does not pass for a positive control."""
    assert evaluation(heard([1.0] * len(ROWS))).passed_although_damaged() == ["VL distractor", "audio gain"]


def test_a_condition_whose_interval_reaches_zero_has_not_failed():
    """A positive control must be surely below the base."""
    ruined = evaluation(heard([0.0] * len(ROWS)), matched=1, silence=1)
    for high, told in ((0.0, ["VL distractor"]), (-1e-9, [])):
        changed = replace(ruined.vl["distractor"], difference=Estimate(-0.01, -0.02, high))
        found = replace(ruined, vl=ruined.vl | {"distractor": changed})
        assert found.passed_although_damaged() == told


def test_the_worst_is_sought_among_vl_rows_and_text_only_questions():
    assert with_text(right=20).worst_difference[:2] == ("text", "silence")
    assert with_text(vl=0.0, right=20).worst_difference[:2] == ("VL", "distractor")
    found = with_text(right=20)
    assert found.worst_difference == Worst("text", "silence", found.text["silence"].difference)
    assert evaluation(heard([1.0] * 52)).worst_difference[:2] == ("VL", "distractor")
    bypass = summarize(base(), {"bypass": base()}, {"matched": audio(3)}, ROWS, AUDIO, margin=MARGIN, seconds=1.0)
    assert bypass.worst_difference is None


def test_a_positive_control_must_fail_on_text_only_rows_too():
    ruined = {"vl": 0.0, "matched": 1}
    assert with_text(right=0, factor=3.0, **ruined).passed_although_damaged() == []
    assert with_text(right=30, factor=3.0, **ruined).passed_although_damaged() == ["text silence"]
    assert with_text(right=0, factor=1.0, **ruined).passed_although_damaged() == ["documents silence"]
    broken = said_of_text(30, 1.0)
    for place in (3, 33):
        changed = [*broken[:place], replace(broken[place], logits_sha256="x"), *broken[place + 1 :]]
        found = with_text(right=0, factor=3.0, text_bypass=changed, **ruined)
        assert found.passed_although_damaged() == ["the bypass, which is to stay the base,"]


def test_results_are_read_back_as_they_were_and_older_ones_too():
    found = with_text(right=24, factor=1.25)
    plain = found.to_dict()
    assert from_plain(Evaluation, plain) == found
    added = ("guessing", "base_above_guessing", "text", "base_text", "base_text_format_errors", "text_guessing",
             "base_text_above_guessing", "documents", "base_bits_per_byte", "audio_metric")  # fmt: skip
    older = from_plain(Evaluation, {name: value for name, value in plain.items() if name not in added})
    assert (older.text, older.documents, older.guessing, older.audio_metric) == ({}, {}, None, "exact_match")
    assert older.worst_difference[:2] == ("VL", "distractor")


def test_a_gate_condition_and_the_bypass_never_are_the_worst():
    samples = {"bypass": heard([0.0] * 52), "gate_0.5": heard([0.0] * 52), "loud": heard([1.0] * 51 + [0.0])}
    found = summarize(base(), samples, {"matched": audio(3)}, ROWS, AUDIO, margin=MARGIN, seconds=1.0)
    assert found.worst_difference == Worst("VL", "loud", found.vl["loud"].difference)
    assert isinstance(found.base, Estimate)


def test_a_positive_control_that_measured_nothing_has_not_failed():
    of_bypass = {"bypass": base()}
    for vl in (of_bypass, of_bypass | {"gate_0.5": heard([0.0] * 52)}):
        found = summarize(base(), vl, {"matched": audio(3)}, ROWS, AUDIO, margin=MARGIN, seconds=1.0)
        assert found.passed_although_damaged() == ["nothing was measured with audio attached"]
