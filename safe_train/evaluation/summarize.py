"""All figures of an evaluation, from its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from safe_train.data.example import Example
from safe_train.evaluation.audio_metric import audio_scores
from safe_train.evaluation.figures import answer_result, audio_result, document_result, malformed_share
from safe_train.evaluation.guessing import guessing_scores
from safe_train.evaluation.predictions import Prediction
from safe_train.evaluation.results import Evaluation
from safe_train.metrics.intervals import DIFFERENCE, SHARE, Estimate, cluster_bootstrap


def summarize(
    base: Sequence[Prediction],
    vl: Mapping[str, Sequence[Prediction]],
    audio: Mapping[str, Sequence[Prediction]],
    vl_rows: Sequence[Example],
    audio_rows: Sequence[Example],
    *,
    margin: float,
    seconds: float,
    with_captions: bool = False,
    base_text: Sequence[Prediction] = (),
    text: Mapping[str, Sequence[Prediction]] = MappingProxyType({}),
    text_rows: Sequence[Example] = (),
    audio_metric: str = "exact_match",
) -> Evaluation:
    """All figures of an evaluation; a condition without a single row is left out.

    Args:
        base: the base's answers to the VL rows.
        vl: answers to the VL rows by condition.
        audio: answers to the audio rows by condition.
        vl_rows: VL rows.
        audio_rows: audio rows.
        margin: of non-inferiority.
        seconds: how long it took.
        with_captions: whether captions are scored by the caption metrics.
        base_text: the base's answers to the text-only rows; of documents, their bits.
        text: samples of the text-only rows by condition.
        text_rows: text-only rows, questions and documents.
        audio_metric: what captions are scored by; see :func:`audio_scores`.
    """
    cluster_of = {row.row_id: row.cluster for row in audio_rows}
    scores = {
        name: dict(
            zip((sample.row_id for sample in samples), audio_scores(samples, audio_rows, audio_metric), strict=True)
        )
        for name, samples in audio.items()
    }
    gains = {}
    for name, of_rows in scores.items():
        if name != "matched":
            lost = [scores["matched"][row_id] - score for row_id, score in of_rows.items()]
            gains[name] = cluster_bootstrap(lost, [cluster_of[row_id] for row_id in of_rows], bounds=DIFFERENCE)
    of_base = _base_figures(base, vl_rows)
    questions, documents = ([row for row in text_rows if row.is_document == asked] for asked in (False, True))
    base_questions, base_documents = (_only(base_text, rows) for rows in (questions, documents))
    of_base_text = _base_figures(base_questions, questions) if questions else None
    return Evaluation(
        base=of_base.accuracy,
        base_format_errors=of_base.format_errors,
        vl={name: answer_result(name, samples, base, vl_rows, margin) for name, samples in vl.items() if samples},
        audio={
            name: audio_result(name, samples, audio_rows, metric=audio_metric, with_captions=with_captions)
            for name, samples in audio.items()
            if samples
        },
        audio_gain=gains,
        seconds=seconds,
        guessing=of_base.guessing,
        base_above_guessing=of_base.above_guessing,
        text={
            name: answer_result(name, chosen, base_questions, questions, margin)
            for name, samples in text.items()
            if (chosen := _only(samples, questions))
        },
        base_text=of_base_text and of_base_text.accuracy,
        base_text_format_errors=of_base_text and of_base_text.format_errors,
        text_guessing=of_base_text and of_base_text.guessing,
        base_text_above_guessing=of_base_text and of_base_text.above_guessing,
        documents={
            name: document_result(name, chosen, base_documents, documents)
            for name, samples in text.items()
            if (chosen := _only(samples, documents))
        },
        base_bits_per_byte=_base_bits_per_byte(base_documents, documents) if documents else None,
        audio_metric=audio_metric,
    )


def _only(samples: Sequence[Prediction], rows: Sequence[Example]) -> list[Prediction]:
    ids = {row.row_id for row in rows}
    return [sample for sample in samples if sample.row_id in ids]


@dataclass(frozen=True)
class _BaseFigures:
    """The base's accuracy, that of guessing, the one minus the other, paired, and the base's format errors."""

    accuracy: Estimate
    guessing: Estimate
    above_guessing: Estimate
    format_errors: float


def _base_figures(base: Sequence[Prediction], rows: Sequence[Example]) -> _BaseFigures:
    cluster_of = {row.row_id: row.cluster for row in rows}
    clusters = [cluster_of[sample.row_id] for sample in base]
    guessed = dict(zip((row.row_id for row in rows), guessing_scores(rows), strict=True))
    of_rows = [guessed[sample.row_id] for sample in base]
    scores = [sample.score for sample in base]
    return _BaseFigures(
        accuracy=cluster_bootstrap(scores, clusters, bounds=SHARE),
        guessing=cluster_bootstrap(of_rows, clusters, bounds=SHARE),
        above_guessing=cluster_bootstrap(
            [score - guess for score, guess in zip(scores, of_rows, strict=True)], clusters, bounds=DIFFERENCE
        ),
        format_errors=malformed_share(base),
    )


def _base_bits_per_byte(base: Sequence[Prediction], rows: Sequence[Example]) -> Estimate:
    return document_result("base", base, base, rows).bits_per_byte
