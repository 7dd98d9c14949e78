"""Figures of a whole evaluation: gains, the majority baseline, and what has no examples."""

from dataclasses import replace

import pytest

from safe_train.data.example import DOCUMENT
from safe_train.evaluation.predictions import Prediction
from safe_train.evaluation.summarize import summarize
from safe_train.metrics.intervals import DIFFERENCE, SHARE, cluster_bootstrap
from tests.evaluation.made import (
    AUDIO,
    DOCUMENTS,
    MARGIN,
    ROWS,
    TEXT,
    audio,
    base,
    evaluation,
    heard,
    said_of_text,
    with_text,
)
from tests.evaluation.test_majority_baseline import asked


def test_audio_gains_are_paired_differences():
    found = evaluation(heard([1.0] * len(ROWS)))
    assert found.audio_gain["silence"].mean == pytest.approx(0.9)
    assert found.audio["matched"].accuracy.mean == 1.0


def test_a_condition_without_rows_is_left_out():
    samples = {"bypass": base(), "contradictory": []}
    found = summarize(base(), samples, {"matched": audio(3)}, ROWS, AUDIO, margin=MARGIN, seconds=1.0)
    assert set(found.vl) == {"bypass"}


def test_gains_are_paired_whatever_the_order_of_the_answers():
    """The same rows are right in both, told in another order: nothing is gained on any row."""
    backwards = [Prediction(row_id=s.row_id, answer=s.answer, score=s.score, token_f1=s.score) for s in audio(5)[::-1]]
    found = summarize(base(), {"bypass": base()}, {"matched": audio(5), "silence": backwards}, ROWS, AUDIO,
                      margin=MARGIN, seconds=1.0).audio_gain["silence"]  # fmt: skip
    unseen = 1 - 0.025 ** (1 / 10)
    assert (found.mean, found.low, found.high) == pytest.approx((0.0, -unseen, unseen))


def test_format_errors_of_the_base_and_of_audio_answers_are_counted():
    cut = [replace(sample, ended=k > 1) for k, sample in enumerate(base())]
    silent = [replace(sample, answer="" if k < 3 else "bell") for k, sample in enumerate(audio(10))]
    found = summarize(cut, {"bypass": base()}, {"matched": silent}, ROWS, AUDIO, margin=MARGIN, seconds=1.0)
    assert found.base_format_errors == 2 / 52
    assert found.audio["matched"].format_errors == 0.3


def test_the_base_is_compared_with_guessing_row_by_row():
    rows = [*asked(*["yes"] * 6, *["no"] * 4), *asked("2", "3", "4", kind="count")]
    said = [Prediction(row.row_id, "", float(k < 8), logits_sha256="x") for k, row in enumerate(rows)]
    found = summarize(said, {"bypass": said}, {"matched": audio(5)}, rows, AUDIO, margin=MARGIN, seconds=1.0)
    guessed = [1.0] * 6 + [0.0] * 7
    clusters = [row.cluster for row in rows]
    assert found.guessing == cluster_bootstrap(guessed, clusters, bounds=SHARE)
    over = [sample.score - guess for sample, guess in zip(said, guessed, strict=True)]
    assert found.base_above_guessing == cluster_bootstrap(over, clusters, bounds=DIFFERENCE)


def test_questions_and_documents_are_told_apart():
    found = with_text(right=24, factor=1.25)
    assert (found.text["silence"].rows, found.documents["silence"].rows) == (30, 8)
    assert found.text["silence"].difference.mean == pytest.approx(-6 / 30)
    assert found.documents["silence"].difference.mean == pytest.approx(0.25 * 204 / 36)
    assert (found.base_text.mean, found.base_bits_per_byte.mean) == (1.0, pytest.approx(204 / 36))
    assert (found.text_guessing.mean, found.base_text_above_guessing.mean) == (1.0, 0.0)
    assert found.base_text_format_errors == 0.0


def test_questions_alone_and_documents_alone():
    only = [row for row in TEXT if row.kind != DOCUMENT]
    for rows, kept, gone in ((only, "text", "documents"), (DOCUMENTS, "documents", "text")):
        said = [sample for sample in said_of_text(30, 1.0) if sample.row_id in {row.row_id for row in rows}]
        found = summarize(base(), {"bypass": base()}, {"matched": audio(3)}, ROWS, AUDIO, margin=MARGIN, seconds=1.0,
                          base_text=said, text={"bypass": said}, text_examples=rows)  # fmt: skip
        assert set(getattr(found, kept)) == {"bypass"}
        assert getattr(found, gone) == {}
        assert (found.base_text is None) == (kept == "documents")
        assert (found.base_bits_per_byte is None) == (kept == "text")
