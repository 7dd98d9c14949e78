"""Figures of a condition, from answers made up by hand whose measures are known."""

from dataclasses import replace

import pytest

from safe_train.data.example import Example
from safe_train.evaluation.aggregate import SMALLEST_GROUP, answer_result, audio_result, document_result
from safe_train.evaluation.predictions import Prediction
from safe_train.evaluation.summarize import summarize
from safe_train.metrics.intervals import DIFFERENCE, SHARE, cluster_bootstrap, cluster_bootstrap_ratio
from safe_train.metrics.non_inferiority import non_inferiority
from tests.evaluation.made import AUDIO, DOCUMENTS, MARGIN, ROWS, TEXT, audio, base, bits, heard


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


def test_captions_are_scored_by_cider_d_when_they_are_asked_for():
    """Half the captions are their reference, the others share no word with it: the mean of 10 and 0."""
    rows = [replace(row, kind="caption", answers=(f"sound number {k} heard far away",)) for k, row in enumerate(AUDIO)]
    samples = [Prediction(row.row_id, row.answers[0] if k % 2 else "nothing", 0.0, 0.0) for k, row in enumerate(rows)]
    found = audio_result("matched", samples, rows, with_captions=True).captions
    assert found.rows == 10
    assert found.means["CIDEr-D"] == pytest.approx(5.0)
    assert "SPIDEr" in found.means or "SPIDEr" in found.left_out
    assert audio_result("matched", samples, rows).captions is None


def test_questions_are_no_captions():
    rows = [replace(row, kind="question") for row in AUDIO]
    samples = [Prediction(row.row_id, "bell", 1.0, 1.0) for row in rows]
    assert audio_result("matched", samples, rows, with_captions=True).captions is None


def test_a_score_of_a_half_is_right_where_right_and_wrong_are_told_apart():
    """One half is the score of an answer that some people gave; SAFE's 0.5 after the base's 1 is no lost answer."""
    scores = [0.5] * 10 + [0.49] * 6 + [1.0] * 36
    found = result(heard(scores))
    assert found.mcnemar_p == pytest.approx(2 / 2**6)  # six lost, none gained
    assert result(heard([0.5] * len(ROWS))).mcnemar_p == 1.0
    before = [replace(sample, score=0.5) for sample in base()]
    assert result(heard([1.0] * len(ROWS)), before).mcnemar_p == 1.0
    assert result(heard([0.0] * len(ROWS)), before).mcnemar_p == pytest.approx(2 / 2**52)


def uneven(rows=ROWS):
    """Scores of which both rows of an image are lost together, as the base had them all right."""
    return [float(k // 2 % 5 > 0) for k in range(len(rows))]


def test_intervals_are_those_of_whole_images():
    """Every interval is that of images, which is wider than that of rows."""
    images = [row.cluster for row in ROWS]
    apart = [row.row_id for row in ROWS]
    scores = uneven()
    changes = [score - 1.0 for score in scores]
    before = [1.0] * 50 + [0.5] * 2
    reference = [replace(sample, score=score) for sample, score in zip(base(), before, strict=True)]
    found, exact = result(heard(scores)), result(heard(scores), reference)
    assert found.accuracy == cluster_bootstrap(scores, images, bounds=SHARE)
    assert found.difference == cluster_bootstrap(changes, images, bounds=DIFFERENCE)
    assert exact.retention_ratio == cluster_bootstrap_ratio(scores, before, images)
    lost = non_inferiority([True] * 52, [score > 0 for score in scores], images, MARGIN)
    assert found.non_inferiority == lost
    for one, other in (
        (found.accuracy, cluster_bootstrap(scores, apart, bounds=SHARE)),
        (found.difference, cluster_bootstrap(changes, apart, bounds=DIFFERENCE)),
        (exact.retention_ratio, cluster_bootstrap_ratio(scores, before, apart)),
    ):
        assert one.high - one.low > 1.2 * (other.high - other.low)
    assert lost.rows_needed > 1.5 * non_inferiority([True] * 52, [s > 0 for s in scores], apart, MARGIN).rows_needed


def test_the_worst_group_s_interval_is_that_of_whole_images():
    scores = [1.0] * 25 + uneven()[25:]
    found = result(heard(scores)).worst_group
    counted = range(25, 50)
    changes = [scores[k] - 1.0 for k in counted]
    assert found.kind == "count"
    assert found.difference == cluster_bootstrap(changes, [ROWS[k].cluster for k in counted], bounds=DIFFERENCE)
    assert found.difference != cluster_bootstrap(changes, [str(k) for k in counted], bounds=DIFFERENCE)


@pytest.mark.parametrize(("size", "is_one"), [(SMALLEST_GROUP - 1, False), (SMALLEST_GROUP, True)])
def test_a_group_is_large_enough_from_a_number_of_rows_on(size, is_one):
    rows = [Example(f"v{k}", "?", ("right",), kind="kind", cluster=str(k)) for k in range(size)]
    samples = [Prediction(row.row_id, "right", 1.0, updates=(0.1,)) for row in rows]
    assert (answer_result("silence", samples, samples, rows, MARGIN).worst_group is not None) == is_one


def test_where_nothing_changed_no_interval_is_without_width():
    """52 rows about 26 images, all right before and after."""
    unseen = 1 - 0.025 ** (1 / 26)
    found = result(heard([1.0] * len(ROWS)))
    assert (found.difference.low, found.difference.high) == pytest.approx((-unseen, unseen))
    assert (found.accuracy.low, found.accuracy.high) == pytest.approx((1 - unseen, 1.0))
    assert (found.retention_ratio.low, found.retention_ratio.high) == pytest.approx((1 - unseen, 1 + unseen))
    assert (found.worst_group.difference.low, found.worst_group.difference.high) != (0.0, 0.0)
    half = [replace(sample, score=0.5) for sample in base()]
    ratio = result([replace(sample, score=0.5) for sample in heard([1.0] * 52)], half).retention_ratio
    assert (ratio.low, ratio.high) == pytest.approx((1 - unseen / 0.5, 1 + unseen / 0.5))


def test_audio_intervals_are_those_of_whole_clips():
    """Two questions about each clip, lost together."""
    rows = [replace(row, cluster=f"clip {k // 2}") for k, row in enumerate(AUDIO)]
    clips = [row.cluster for row in rows]
    scores = [1.0] * 6 + [0.0] * 4
    found = audio_result("matched", audio(6), rows)
    assert found.accuracy == found.token_f1 == cluster_bootstrap(scores, clips, bounds=SHARE)
    assert found.accuracy != cluster_bootstrap(scores, [row.row_id for row in rows], bounds=SHARE)
    gains = summarize(base(), {"bypass": base()}, {"matched": audio(6), "silence": audio(0)}, ROWS, rows,
                      margin=MARGIN, seconds=1.0).audio_gain["silence"]  # fmt: skip
    assert gains == cluster_bootstrap(scores, clips, bounds=DIFFERENCE)


def test_of_equally_bad_answers_the_one_with_the_larger_divergence_counts():
    draws = [*heard([0.0] * 52, kl=0.5), *heard([0.0] * 52, kl=2.0, draw=1), *heard([1.0] * 52, kl=9.0, draw=2)]
    assert result(draws, condition="worst_of_4").kl == pytest.approx(2.0)


def test_the_answer_is_compared_with_that_of_the_base_and_not_with_the_reference():
    scores = [1.0] * len(ROWS)
    said = [replace(sample, answer="something else") for sample in heard(scores)]
    found = result(said)
    assert (found.answer_change_rate, found.right_to_wrong, found.wrong_to_right) == (1.0, 0.0, 0.0)
    same = [replace(sample, answer="something else") for sample in base()]
    assert result(said, same).answer_change_rate == 0.0


def test_updates_are_means_over_all_rows_by_layer():
    samples = heard([1.0] * 52)
    samples[0] = replace(samples[0], updates=(5.4, 0.4))
    assert result(samples).updates == pytest.approx([(51 * 0.2 + 5.4) / 52, 0.4])


def test_bits_per_byte_are_a_ratio_of_sums_over_whole_documents():
    found = document_result("silence", bits(1.5, kl=0.25, updates=(0.1, 0.3)), bits(1.0), TEXT)
    squares, sizes = [float(n * n) for n in range(1, 9)], [float(n) for n in range(1, 9)]
    parts = [row.cluster for row in DOCUMENTS]
    assert (found.rows, found.bytes) == (8, 36)
    assert found.bits_per_byte.mean == pytest.approx(1.5 * 204 / 36)
    assert found.bits_per_byte == cluster_bootstrap_ratio([1.5 * s for s in squares], sizes, parts)
    assert found.difference == cluster_bootstrap_ratio([0.5 * s for s in squares], sizes, parts)
    apart = cluster_bootstrap_ratio([0.5 * s for s in squares], sizes, [row.row_id for row in DOCUMENTS])
    assert found.difference.high - found.difference.low > 1.1 * (apart.high - apart.low)
    assert (found.kl, found.fusion_calls, found.updates) == (pytest.approx(0.25), 32, pytest.approx([0.1, 0.3]))
    assert found.is_measurement
    assert not document_result("silence", bits(1.0, updates=(0.0, 0.0)), bits(1.0), TEXT).is_measurement
    assert found.bit_equal is None


def test_kl_of_documents_is_the_mean_over_tokens():
    samples = bits(1.0, kl=1.0)
    samples[7] = replace(samples[7], kl=10.0)  # the longest, 8 tokens of 36
    assert document_result("silence", samples, bits(1.0), TEXT).kl == pytest.approx((28 + 80) / 36)


def test_the_draw_with_most_bits_counts_for_each_document():
    draws = [bits(1.0), bits(1.0, draw=1), bits(1.0, draw=2)]
    draws[1][3] = replace(draws[1][3], bits=100.0)
    draws[2][5] = replace(draws[2][5], bits=0.0)
    found = document_result("worst_of_4", [sample for draw in draws for sample in draw], bits(1.0), TEXT)
    assert found.rows == 8
    assert found.difference.mean == pytest.approx((100 - 16) / 36)


@pytest.mark.parametrize("change", [{"logits_sha256": "x"}, {"logits_sha256": None}])
def test_one_document_is_enough_to_break_the_bypass(change):
    said = bits(1.0, digest="a")
    assert document_result("bypass", said, said, TEXT).bit_equal is True
    assert document_result("bypass", [*said[:4], replace(said[4], **change), *said[5:]], said, TEXT).bit_equal is False


def test_parts_of_one_document_are_drawn_where_there_is_no_other():
    rows = [replace(row, cluster="book") for row in DOCUMENTS]
    found = document_result("silence", bits(2.0), bits(1.0), rows)
    apart = [replace(row, cluster=row.row_id) for row in DOCUMENTS]
    assert found == document_result("silence", bits(2.0), bits(1.0), apart)
    assert found.difference.low < found.difference.high
    with pytest.raises(ValueError, match="at least two documents"):
        document_result("silence", bits(2.0)[:1], bits(1.0)[:1], rows)


def test_audio_accuracy_by_type_of_question():
    """Of three questions about words two are answered, of one about a language none."""
    kinds, scores = ("word", "word", "language", "word"), (1.0, 0.0, 0.0, 1.0)
    rows = [Example(str(number), "?", ("a",), kind=kind, cluster=str(number)) for number, kind in enumerate(kinds)]
    samples = [Prediction(str(number), "a" if score else "b", score) for number, score in enumerate(scores)]
    assert audio_result("matched", samples, rows).by_kind == {"language": 0.0, "word": pytest.approx(2 / 3)}
