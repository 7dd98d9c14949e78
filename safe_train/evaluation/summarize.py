"""Computes all figures of an evaluation from its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from safe_train.data.example import Example
from safe_train.evaluation.aggregate import answer_result, audio_result, document_result, malformed_share
from safe_train.evaluation.audio_metric import audio_scores
from safe_train.evaluation.conditions import MATCHED
from safe_train.evaluation.majority_baseline import majority_scores
from safe_train.evaluation.predictions import Prediction
from safe_train.evaluation.results import Evaluation
from safe_train.metrics.exact_match import EXACT_MATCH
from safe_train.metrics.intervals import DIFFERENCE, SHARE, Estimate, cluster_bootstrap


def summarize(
    base: Sequence[Prediction],
    vl: Mapping[str, Sequence[Prediction]],
    audio: Mapping[str, Sequence[Prediction]],
    vl_examples: Sequence[Example],
    audio_examples: Sequence[Example],
    *,
    margin: float,
    seconds: float,
    with_captions: bool = False,
    base_text: Sequence[Prediction] = (),
    text: Mapping[str, Sequence[Prediction]] = MappingProxyType({}),
    text_examples: Sequence[Example] = (),
    audio_metric: str = EXACT_MATCH.name,
) -> Evaluation:
    """All figures of an evaluation; a condition without a single example is left out.

    Args:
        base: the base's answers to the VL examples.
        vl: answers to the VL examples by condition.
        audio: answers to the audio examples by condition.
        vl_examples: VL examples.
        audio_examples: audio examples.
        margin: of non-inferiority.
        seconds: how long it took.
        with_captions: whether captions are scored by the caption metrics.
        base_text: the base's answers to the text-only examples; of documents, their bits.
        text: predictions of the text-only examples by condition.
        text_examples: text-only examples, questions and documents.
        audio_metric: what captions are scored by; see :func:`audio_scores`.
    """
    cluster_of = {example.row_id: example.cluster for example in audio_examples}
    scores = {
        name: dict(zip(_ids(predictions), audio_scores(predictions, audio_examples, audio_metric), strict=True))
        for name, predictions in audio.items()
    }
    gains = {}
    for name, of_examples in scores.items():
        if name != MATCHED.name:
            lost = [scores[MATCHED.name][row_id] - score for row_id, score in of_examples.items()]
            gains[name] = cluster_bootstrap(lost, [cluster_of[row_id] for row_id in of_examples], bounds=DIFFERENCE)
    of_base = _base_figures(base, vl_examples)
    questions, documents = ([one for one in text_examples if one.is_document == asked] for asked in (False, True))
    base_questions, base_documents = (_only(base_text, examples) for examples in (questions, documents))
    of_base_text = _base_figures(base_questions, questions) if questions else None
    return Evaluation(
        base=of_base.accuracy,
        base_format_errors=of_base.format_errors,
        vl={
            name: answer_result(name, predictions, base, vl_examples, margin)
            for name, predictions in vl.items()
            if predictions
        },
        audio={
            name: audio_result(name, predictions, audio_examples, metric=audio_metric, with_captions=with_captions)
            for name, predictions in audio.items()
            if predictions
        },
        audio_gain=gains,
        seconds=seconds,
        guessing=of_base.guessing,
        base_above_guessing=of_base.above_guessing,
        text={
            name: answer_result(name, chosen, base_questions, questions, margin)
            for name, predictions in text.items()
            if (chosen := _only(predictions, questions))
        },
        base_text=of_base_text and of_base_text.accuracy,
        base_text_format_errors=of_base_text and of_base_text.format_errors,
        text_guessing=of_base_text and of_base_text.guessing,
        base_text_above_guessing=of_base_text and of_base_text.above_guessing,
        documents={
            name: document_result(name, chosen, base_documents, documents)
            for name, predictions in text.items()
            if (chosen := _only(predictions, documents))
        },
        base_bits_per_byte=_base_bits_per_byte(base_documents, documents) if documents else None,
        audio_metric=audio_metric,
    )


def _ids(predictions: Sequence[Prediction]) -> list[str]:
    return [prediction.row_id for prediction in predictions]


def _only(predictions: Sequence[Prediction], examples: Sequence[Example]) -> list[Prediction]:
    ids = {example.row_id for example in examples}
    return [prediction for prediction in predictions if prediction.row_id in ids]


@dataclass(frozen=True)
class _BaseFigures:
    """The base's accuracy, that of guessing, their paired difference, and the base's format errors."""

    accuracy: Estimate
    guessing: Estimate
    above_guessing: Estimate
    format_errors: float


def _base_figures(base: Sequence[Prediction], examples: Sequence[Example]) -> _BaseFigures:
    cluster_of = {example.row_id: example.cluster for example in examples}
    clusters = [cluster_of[prediction.row_id] for prediction in base]
    guessed = dict(zip((example.row_id for example in examples), majority_scores(examples), strict=True))
    of_examples = [guessed[prediction.row_id] for prediction in base]
    scores = [prediction.score for prediction in base]
    return _BaseFigures(
        accuracy=cluster_bootstrap(scores, clusters, bounds=SHARE),
        guessing=cluster_bootstrap(of_examples, clusters, bounds=SHARE),
        above_guessing=cluster_bootstrap(
            [score - guess for score, guess in zip(scores, of_examples, strict=True)], clusters, bounds=DIFFERENCE
        ),
        format_errors=malformed_share(base),
    )


def _base_bits_per_byte(base: Sequence[Prediction], examples: Sequence[Example]) -> Estimate:
    return document_result("base", base, base, examples).bits_per_byte
