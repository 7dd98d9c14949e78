"""Exact match: an answer is right if a reference says the same."""

from __future__ import annotations

from collections.abc import Sequence

from safe_train.metrics.metric import Metric, score_each
from safe_train.metrics.vqa_accuracy import normalize_answer


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1 if the prediction equals a reference after :func:`normalize_answer`, else 0."""
    predicted = normalize_answer(prediction)
    return float(any(normalize_answer(reference) == predicted for reference in references))


EXACT_MATCH = Metric("exact_match", "exact match", score_each(exact_match), column="score")
