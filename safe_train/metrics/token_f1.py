"""Token F1: how much an answer of several words shares with its best reference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from safe_train.metrics.metric import Metric, score_each
from safe_train.metrics.vqa_accuracy import normalize_answer


def token_f1(prediction: str, references: Sequence[str]) -> float:
    """Harmonic mean of precision and recall over tokens, the best over the references, in 0..1.

    ``F1 = 2 m / (p + r)`` with p and r the numbers of tokens in the prediction and in the reference and m the size of
    their intersection as multisets. Tokens are the words of :func:`safe_train.metrics.vqa_accuracy.normalize_answer`,
    so that an exact match has F1 1. Two texts without tokens are equal (1); a text without tokens shares nothing with
    one that has some (0).

    Source: the F1 of SQuAD (Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1), which normalizes otherwise: it
    drops all punctuation and articles and leaves number words and contractions as they are.

    Raises:
        ValueError: there is no reference.
    """
    if not references:
        raise ValueError("references: expected at least one answer, got none")
    predicted = _tokens(prediction)
    return max(_f1(predicted, _tokens(reference)) for reference in references)


def _tokens(text: str) -> Counter[str]:
    return Counter(normalize_answer(text).split())


def _f1(predicted: Counter[str], reference: Counter[str]) -> float:
    total = predicted.total() + reference.total()
    return 2 * (predicted & reference).total() / total if total else 1.0


TOKEN_F1 = Metric("token_f1", "token F1", score_each(token_f1), column="token_f1")
