"""Captions by every caption metric that can be computed on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from safe_train.metrics.metric import Corpus
from safe_train.metrics.registry import caption_metrics


@dataclass(frozen=True)
class CaptionScore:
    """A caption metric over a corpus.

    Attributes:
        metric: its label, such as ``CIDEr-D``.
        tokenizer: what split the captions, in words; scores by different tokenizers do not compare.
        mean: over the captions.
        per_example: in the order of the predictions. CIDEr-D weighs n-grams by all references of the corpus, so that
            the value of a caption depends on the others.
    """

    metric: str
    tokenizer: str
    mean: float
    per_example: list[float]


@dataclass(frozen=True)
class CaptionEvaluation:
    """The caption metrics that could be computed, and why the others could not.

    Attributes:
        scores: by label.
        left_out: one line of reason by label.
    """

    scores: dict[str, CaptionScore]
    left_out: dict[str, str]


def score_captions(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionEvaluation:
    """Scores captions by the registered caption metrics. Nothing is downloaded.

    Raises:
        ValueError: as :func:`~safe_train.metrics.captions.cider_d`.
        InputError: aac-metrics is not installed.
    """
    corpus = Corpus(predictions, references)
    scores: dict[str, CaptionScore] = {}
    left_out: dict[str, str] = {}
    for metric in caption_metrics():
        if reason := metric.obstacle():
            left_out[metric.label] = reason
            continue
        values = corpus.scores(metric)
        scores[metric.label] = CaptionScore(metric.label, metric.tokenizer, sum(values) / len(values), values)
    return CaptionEvaluation(scores, left_out)
