"""Computes a condition's figures from its predictions and examples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from safe_train.data.example import CAPTION, Example
from safe_train.evaluation.audio_metric import audio_scores
from safe_train.evaluation.conditions import find_condition
from safe_train.evaluation.predictions import Prediction
from safe_train.evaluation.results import AnswerResult, AudioResult, CaptionFigures, DocumentResult, QuestionType
from safe_train.metrics.caption_scores import score_captions
from safe_train.metrics.exact_match import EXACT_MATCH
from safe_train.metrics.intervals import DIFFERENCE, SHARE, Estimate, cluster_bootstrap, cluster_bootstrap_ratio
from safe_train.metrics.non_inferiority import mcnemar, non_inferiority

RIGHT = 0.5
"""From this score on an answer counts as right where only right and wrong are told apart."""

SMALLEST_GROUP = 20
"""Question types with fewer examples are not candidates for the worst group."""


def answer_result(
    condition: str,
    predictions: Sequence[Prediction],
    base: Sequence[Prediction],
    examples: Sequence[Example],
    margin: float,
) -> AnswerResult:
    """The figures of a condition on questions; of several answers to an example the worst counts.

    Args:
        condition: its name.
        predictions: the answers, draw after draw.
        base: the base's answers to the same examples.
        examples: the examples, VL or text-only.
        margin: of non-inferiority.
    """
    reference = {prediction.row_id: prediction for prediction in base}
    row_of = {example.row_id: example for example in examples}
    worst = _worst_answers(predictions)
    before = [reference[prediction.row_id] for prediction in worst]
    clusters = [row_of[prediction.row_id].cluster for prediction in worst]
    kinds = [row_of[prediction.row_id].kind for prediction in worst]
    scores = [prediction.score for prediction in worst]
    changes = [prediction.score - old.score for prediction, old in zip(worst, before, strict=True)]
    was_right, is_right = ([prediction.score >= RIGHT for prediction in group] for group in (before, worst))
    pairs = list(zip(was_right, is_right, strict=True))
    updates = _mean_updates(worst)
    bypassed = not find_condition(condition).attach
    return AnswerResult(
        condition=condition,
        rows=len(worst),
        accuracy=cluster_bootstrap(scores, clusters, bounds=SHARE),
        difference=cluster_bootstrap(changes, clusters, bounds=DIFFERENCE),
        retention_ratio=_retention_ratio(scores, [prediction.score for prediction in before], clusters),
        answer_change_rate=_share([new.answer != old.answer for new, old in zip(worst, before, strict=True)]),
        right_to_wrong=_share([change < 0 for change in changes]),
        wrong_to_right=_share([change > 0 for change in changes]),
        mcnemar_p=mcnemar(losses=pairs.count((True, False)), gains=pairs.count((False, True))),
        non_inferiority=non_inferiority(was_right, is_right, clusters, margin),
        kl=_mean_kl(worst),
        format_errors=malformed_share(worst),
        worst_group=_worst_group(changes, kinds, clusters),
        by_kind=_mean_by(kinds, scores),
        fusion_calls=sum(prediction.fusion_calls for prediction in worst),
        updates=updates,
        is_measurement=any(update > 0.0 for update in updates),
        bit_equal=all(_is_bit_equal(new, old) for new, old in zip(worst, before, strict=True)) if bypassed else None,
    )


def _retention_ratio(scores: Sequence[float], before: Sequence[float], clusters: Sequence[str]) -> Estimate | None:
    """Ratio of sums; where no score changed, its limits are those of the difference over the base's accuracy."""
    found = cluster_bootstrap_ratio(scores, before, clusters)
    if found is None or any(new != old for new, old in zip(scores, before, strict=True)):
        return found
    change = cluster_bootstrap([0.0] * len(scores), clusters, bounds=DIFFERENCE)
    mean = sum(before) / len(before)
    return Estimate(found.mean, max(0.0, 1.0 + change.low / mean), 1.0 + change.high / mean)


def document_result(
    condition: str, predictions: Sequence[Prediction], base: Sequence[Prediction], examples: Sequence[Example]
) -> DocumentResult:
    """The figures of a condition on documents; of several draws, the one that takes most bits counts for each example.

    Where all examples are parts of one document, the parts are what is drawn: their intervals are of this document
    alone.

    Raises:
        ValueError: there is one example only, which says nothing about others.
    """
    if len({prediction.row_id for prediction in predictions}) < 2:
        raise ValueError("expected at least two documents, or parts of one, got one")
    reference = {prediction.row_id: prediction for prediction in base}
    cluster_of = {example.row_id: example.cluster for example in examples}
    worst = _worst_answers(predictions)
    before = [reference[prediction.row_id] for prediction in worst]
    clusters = [cluster_of[prediction.row_id] for prediction in worst]
    if len(set(clusters)) < 2:
        clusters = [prediction.row_id for prediction in worst]
    sizes = [float(prediction.num_bytes) for prediction in worst]
    more = [_bits(new) - _bits(old) for new, old in zip(worst, before, strict=True)]
    updates = _mean_updates(worst)
    bypassed = not find_condition(condition).attach
    return DocumentResult(
        condition=condition,
        rows=len(worst),
        bytes=sum(prediction.num_bytes for prediction in worst),
        bits_per_byte=_per_byte([_bits(prediction) for prediction in worst], sizes, clusters),
        difference=_per_byte(more, sizes, clusters),
        kl=_mean_kl(worst),
        fusion_calls=sum(prediction.fusion_calls for prediction in worst),
        updates=updates,
        is_measurement=any(update > 0.0 for update in updates),
        bit_equal=all(_is_bit_equal(new, old) for new, old in zip(worst, before, strict=True)) if bypassed else None,
    )


def _per_byte(bits: Sequence[float], sizes: Sequence[float], clusters: Sequence[str]) -> Estimate:
    found = cluster_bootstrap_ratio(bits, sizes, clusters)
    if found is None:
        raise ValueError("expected documents of at least one byte, got an empty one")
    return found


def audio_result(
    condition: str,
    predictions: Sequence[Prediction],
    examples: Sequence[Example],
    *,
    metric: str = EXACT_MATCH.name,
    with_captions: bool = False,
) -> AudioResult:
    """The figures of a condition; caption metrics take seconds and are computed only if requested.

    Raises:
        InputError: caption metrics are requested, and aac-metrics is not installed.
    """
    example_of = {example.row_id: example for example in examples}
    asked = [example_of[prediction.row_id] for prediction in predictions]
    clusters = [example.cluster for example in asked]
    scores = audio_scores(predictions, examples, metric)
    return AudioResult(
        condition=condition,
        rows=len(predictions),
        accuracy=cluster_bootstrap(scores, clusters, bounds=SHARE),
        token_f1=cluster_bootstrap([prediction.token_f1 or 0.0 for prediction in predictions], clusters, bounds=SHARE),
        format_errors=malformed_share(predictions),
        updates=_mean_updates(predictions),
        captions=_caption_figures(predictions, examples) if with_captions else None,
        by_kind=_mean_by([example.kind for example in asked], scores),
    )


def _caption_figures(predictions: Sequence[Prediction], examples: Sequence[Example]) -> CaptionFigures | None:
    """Metrics over the examples that ask for a caption; None if there are fewer than two."""
    references = {example.row_id: example.answers for example in examples if example.kind == CAPTION}
    chosen = [prediction for prediction in predictions if prediction.row_id in references]
    if len(chosen) < 2:
        return None
    found = score_captions([one.answer for one in chosen], [references[one.row_id] for one in chosen])
    return CaptionFigures(
        rows=len(chosen),
        means={metric: score.mean for metric, score in found.scores.items()},
        tokenizers={metric: score.tokenizer for metric, score in found.scores.items()},
        left_out=found.left_out,
    )


def _worst_answers(predictions: Sequence[Prediction]) -> list[Prediction]:
    """For each example its worst prediction, examples in the order of the first draw.

    Of a question that is the lowest score, of a document the most bits; of equal ones the largest divergence.
    """
    worst: dict[str, Prediction] = {}
    for prediction in predictions:
        other = worst.get(prediction.row_id)
        if other is None or _goodness(prediction) < _goodness(other):
            worst[prediction.row_id] = prediction
    return list(worst.values())


def _goodness(prediction: Prediction) -> tuple[float, float, float]:
    return (prediction.score, -(prediction.bits or 0.0), -(prediction.kl or 0.0))


def _bits(prediction: Prediction) -> float:
    if prediction.bits is None:
        raise ValueError(f"example {prediction.row_id}: expected the bits of a document, got an answer")
    return prediction.bits


def _worst_group(changes: Sequence[float], kinds: Sequence[str], clusters: Sequence[str]) -> QuestionType | None:
    members: dict[str, list[int]] = defaultdict(list)
    for index, kind in enumerate(kinds):
        members[kind].append(index)
    large = {kind: indices for kind, indices in members.items() if len(indices) >= SMALLEST_GROUP}
    if not large:
        return None
    worst = min(large, key=lambda kind: sum(changes[index] for index in large[kind]) / len(large[kind]))
    indices = large[worst]
    difference = cluster_bootstrap(
        [changes[index] for index in indices], [clusters[index] for index in indices], bounds=DIFFERENCE
    )
    return QuestionType(worst, len(indices), difference)


def _mean_by(kinds: Sequence[str], scores: Sequence[float]) -> dict[str, float]:
    by_kind: dict[str, list[float]] = defaultdict(list)
    for kind, score in zip(kinds, scores, strict=True):
        by_kind[kind].append(score)
    return {kind: sum(values) / len(values) for kind, values in sorted(by_kind.items())}


def _mean_kl(predictions: Sequence[Prediction]) -> float:
    """Over tokens; 0 where there is none."""
    tokens = sum(prediction.tokens for prediction in predictions)
    return sum((prediction.kl or 0.0) * prediction.tokens for prediction in predictions) / tokens if tokens else 0.0


def _mean_updates(predictions: Sequence[Prediction]) -> list[float]:
    """Mean of each fused layer's update; empty where the fusion ran for no example."""
    heard = [prediction.updates for prediction in predictions if prediction.updates]
    return [sum(layer) / len(predictions) for layer in zip(*heard, strict=True)]


def malformed_share(predictions: Sequence[Prediction]) -> float:
    """Share of the answers that are empty, run over several lines or had to be cut off."""
    return _share([_is_malformed(prediction) for prediction in predictions])


def _is_malformed(prediction: Prediction) -> bool:
    return not prediction.answer.strip() or "\n" in prediction.answer.strip() or not prediction.ended


def _is_bit_equal(prediction: Prediction, base: Prediction) -> bool:
    return prediction.logits_sha256 == base.logits_sha256 is not None and prediction.answer == base.answer


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)
