"""Figures from answers made up by hand, whose measures are known."""

from dataclasses import replace

import pytest

from safe_train.data.rows import Row
from safe_train.evaluation.results import answer_result, audio_result, summarize
from safe_train.evaluation.samples import Sample

KINDS = ("color",) * 25 + ("count",) * 25 + ("rare",) * 2
ROWS = [Row(f"v{k}", "what?", ("right",), kind=kind, cluster=f"image {k // 2}") for k, kind in enumerate(KINDS)]
AUDIO = [Row(f"a{k}", "what?", ("bell",), cluster=f"a{k}") for k in range(10)]
MARGIN = 0.005


def base(wrong=()):
    return [Sample(row.row_id, "right" if k not in wrong else "no", float(k not in wrong), logits_sha256=f"{k}")
            for k, row in enumerate(ROWS)]  # fmt: skip


def heard(scores, kl=0.5, tokens=2, draw=0):
    return [
        Sample(row.row_id, "right" if score else "wrong", score, kl=kl, tokens=tokens, updates=(0.2, 0.4),
               fusion_calls=4, draw=draw)
        for row, score in zip(ROWS, scores, strict=True)
    ]  # fmt: skip


def result(samples, reference=None, condition="distractor"):
    return answer_result(condition, samples, reference or base(), ROWS, MARGIN)


def test_flips_ratio_and_the_worst_group():
    """Base: rows 0 and 1 wrong. SAFE: row 0 right, rows 25 to 29 lost, row 1 wrong with another answer."""
    scores = [1.0] * len(ROWS)
    scores[1] = 0.0
    scores[25:30] = [0.0] * 5
    found = result(heard(scores), base(wrong=(0, 1)))
    assert found.rows == 52
    assert found.accuracy.mean == pytest.approx(46 / 52)
    assert found.difference.mean == pytest.approx((46 - 50) / 52)
    assert found.retention_ratio.mean == pytest.approx(46 / 50)
    assert (found.right_to_wrong, found.wrong_to_right) == (5 / 52, 1 / 52)
    assert found.answer_change_rate == 7 / 52  # the flips, and row 1
    assert found.mcnemar_p == pytest.approx(2 * (1 + 6) / 2**6)
    assert (found.worst_group.kind, found.worst_group.rows) == ("count", 25)
    assert found.worst_group.difference.mean == pytest.approx(-5 / 25)
    assert found.by_kind == {"color": 24 / 25, "count": 20 / 25, "rare": 1.0}
    assert (found.kl, found.fusion_calls, found.updates) == (pytest.approx(0.5), 4 * 52, pytest.approx([0.2, 0.4]))
    assert not found.non_inferiority.established


def test_kl_is_the_mean_over_tokens_and_not_over_rows():
    samples = heard([1.0] * len(ROWS), kl=1.0, tokens=1)
    samples[0] = replace(samples[0], kl=3.0, tokens=9)
    assert result(samples).kl == pytest.approx((51 + 27) / (51 + 9))


def test_the_worst_of_several_draws_counts():
    draws = []
    for draw in range(4):
        scores = [1.0] * len(ROWS)
        scores[10 * draw] = 0.0
        draws += heard(scores, draw=draw)
    found = result(draws, condition="worst_of_4")
    assert found.rows == len(ROWS)
    assert found.right_to_wrong == 4 / 52
    assert result(draws[: len(ROWS)]).right_to_wrong == 1 / 52  # one draw alone


def test_a_group_that_is_too_small_is_not_called_the_worst():
    scores = [1.0] * 50 + [0.0] * 2
    assert result(heard(scores)).worst_group.kind != "rare"


def test_format_errors_are_empty_cut_off_and_broken_answers():
    samples = heard([1.0] * len(ROWS))
    samples[0] = replace(samples[0], answer=" ")
    samples[1] = replace(samples[1], ended=False)
    samples[2] = replace(samples[2], answer="right\nUSER: what")
    assert result(samples).format_errors == 3 / 52


def test_a_fusion_that_did_nothing_is_no_measurement():
    idle = [replace(sample, updates=(0.0, 0.0)) for sample in heard([1.0] * len(ROWS))]
    assert not result(idle).is_measurement
    assert not result([replace(sample, updates=()) for sample in idle]).is_measurement
    assert result(heard([1.0] * len(ROWS))).is_measurement


@pytest.mark.parametrize("change", [{"logits_sha256": "x"}, {"answer": "other"}, {"logits_sha256": None}])
def test_one_row_is_enough_to_break_the_bypass(change):
    silent = [replace(sample) for sample in base()]
    assert result(silent, condition="bypass").bit_equal is True
    silent[17] = replace(silent[17], **change)
    assert result(silent, condition="bypass").bit_equal is False


def audio(right):
    return [Sample(row.row_id, "bell" if k < right else "no", float(k < right), token_f1=float(k < right))
            for k, row in enumerate(AUDIO)]  # fmt: skip


def evaluation(vl, matched=10, silence=1):
    samples = {"bypass": base(), "distractor": vl}
    return summarize(base(), samples, {"matched": audio(matched), "silence": audio(silence)}, ROWS, AUDIO,
                     margin=MARGIN, seconds=1.0)  # fmt: skip


def test_audio_gains_are_paired_differences():
    found = evaluation(heard([1.0] * len(ROWS)))
    assert found.audio_gain["silence"].mean == pytest.approx(0.9)
    assert found.audio["matched"].accuracy.mean == 1.0


def test_a_condition_without_rows_is_left_out():
    samples = {"bypass": base(), "contradictory": []}
    found = summarize(base(), samples, {"matched": audio(3)}, ROWS, AUDIO, margin=MARGIN, seconds=1.0)
    assert set(found.vl) == {"bypass"}


def test_a_positive_control_that_fails_everything_but_the_bypass_has_passed():
    ruined = evaluation(heard([0.0] * len(ROWS)), matched=1, silence=1)
    assert ruined.passed_although_damaged() == []


def test_a_positive_control_that_changes_nothing_is_told():
    """Negative control: what is not damaged does not pass for a positive control."""
    assert evaluation(heard([1.0] * len(ROWS))).passed_although_damaged() == ["VL distractor", "audio gain"]


def test_captions_are_scored_by_cider_d_when_they_are_asked_for():
    """Half the captions are their reference, the others share no word with it: the mean of 10 and 0."""
    rows = [replace(row, kind="caption", answers=(f"sound number {k} heard far away",)) for k, row in enumerate(AUDIO)]
    samples = [Sample(row.row_id, row.answers[0] if k % 2 else "nothing", 0.0, 0.0) for k, row in enumerate(rows)]
    found = audio_result("matched", samples, rows, with_captions=True).captions
    assert found.rows == 10
    assert found.means["CIDEr-D"] == pytest.approx(5.0)
    assert "SPIDEr" in found.means or "SPIDEr" in found.left_out
    assert audio_result("matched", samples, rows).captions is None


def test_questions_are_no_captions():
    rows = [replace(row, kind="question") for row in AUDIO]
    samples = [Sample(row.row_id, "bell", 1.0, 1.0) for row in rows]
    assert audio_result("matched", samples, rows, with_captions=True).captions is None
