"""Scores answers to audio examples by a registered metric: exact match, or a similarity for free-form captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from safe_train.data.example import CAPTION, Example
from safe_train.errors import InputError
from safe_train.evaluation.predictions import Prediction
from safe_train.metrics.exact_match import EXACT_MATCH
from safe_train.metrics.metric import Corpus, Metric
from safe_train.metrics.registry import METRICS, find_metric
from safe_train.metrics.token_f1 import TOKEN_F1
from safe_train.metrics.vqa_accuracy import normalize_answer

CLOSED = 0.2
"""Captions are a closed set while there are at most this many different ones per example: a model can name them."""


def resolve_audio_metric(asked: str, evaluated: Sequence[Example], known: Sequence[Example] = ()) -> str:
    """The metric that a setting selects: resolves ``auto``, and checks that the others can be computed.

    ``auto`` is exact match, unless captions are in free words: then the chance to say one word for word is close to 0
    however well a model hears, and it is token F1. Captions are a closed set, as those of a classifier would be, while
    the different first references are at most a fifth of the caption examples.

    Args:
        asked: ``auto``, or the name of a registered metric.
        evaluated: the audio examples that are evaluated.
        known: further audio examples of the same data, such as those trained on; the more there are, the surer a closed
            set is told from free words.

    Raises:
        InputError: there are fewer captions than the metric needs, or its package is not installed.
    """
    if asked != "auto":
        _require(METRICS[asked], len(_caption_ids(evaluated)))
        return asked
    if not any(example.kind == CAPTION for example in evaluated):
        return EXACT_MATCH.name
    captions = [normalize_answer(example.answers[0]) for example in (*evaluated, *known) if example.kind == CAPTION]
    return EXACT_MATCH.name if len(set(captions)) <= CLOSED * len(captions) else TOKEN_F1.name


def _require(metric: Metric, captions: int) -> None:
    place, hint = f"evaluation.audio_metric={metric.name}", f"choose {TOKEN_F1.name}"
    if 1 < metric.least_captions > captions:
        least = "two" if metric.least_captions == 2 else f"{metric.least_captions}"
        raise InputError(place, f"at least {least} audio examples that ask for a caption", str(captions), hint)
    if reason := metric.obstacle():
        raise InputError(place, "a metric that can be computed here", f"one that {reason}", hint)


def audio_scores(predictions: Sequence[Prediction], examples: Sequence[Example], metric: str) -> list[float]:
    """The value of each prediction, divided by the metric's highest: in 0..1.

    Captions are scored by ``metric``; questions beside them by exact match, since one word says it all. Where no
    example asks for a caption, all are scored by ``metric``. A metric may weigh words by the references of all
    examples, so that values are computed from all predictions of a condition and not batch by batch.
    """
    by_metric = _caption_ids(examples) or {example.row_id for example in examples}
    chosen = [prediction for prediction in predictions if prediction.row_id in by_metric]
    scores = dict(
        zip((prediction.row_id for prediction in chosen), _shares(chosen, examples, find_metric(metric)), strict=True)
    )
    return [scores.get(prediction.row_id, prediction.score) for prediction in predictions]


def add_metrics(predictions: Sequence[Prediction], examples: Sequence[Example]) -> list[Prediction]:
    """The predictions with the values of the metrics that are stored with them."""
    corpus = _corpus(predictions, examples)
    columns = {metric.column: corpus.scores(metric) for metric in METRICS.values() if metric.column}
    rows = ({name: values[index] for name, values in columns.items()} for index in range(len(predictions)))
    return [replace(prediction, **row) for prediction, row in zip(predictions, rows, strict=True)]


def _shares(predictions: Sequence[Prediction], examples: Sequence[Example], metric: Metric) -> list[float]:
    if metric.column:
        return [getattr(prediction, metric.column) or 0.0 for prediction in predictions]
    return metric.shares(_corpus(predictions, examples))


def _corpus(predictions: Sequence[Prediction], examples: Sequence[Example]) -> Corpus:
    references = {example.row_id: example.answers for example in examples}
    return Corpus([prediction.answer for prediction in predictions], [references[p.row_id] for p in predictions])


def _caption_ids(examples: Sequence[Example]) -> set[str]:
    return {example.row_id for example in examples if example.kind == CAPTION}
