"""From a condition's answers to its figures: everything here is a function of the samples and the rows alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from safe_train.data.example import CAPTION, Example
from safe_train.evaluation.audio_metric import audio_scores
from safe_train.evaluation.predictions import Prediction
from safe_train.evaluation.results import AnswerResult, AudioResult, CaptionFigures, DocumentResult, Group
from safe_train.metrics.captions import caption_scores
from safe_train.metrics.intervals import DIFFERENCE, SHARE, Estimate, cluster_bootstrap, cluster_bootstrap_ratio
from safe_train.metrics.non_inferiority import mcnemar, non_inferiority

RIGHT = 0.5
"""From this score on an answer counts as right where only right and wrong are told apart."""

SMALLEST_GROUP = 20
"""Question types with fewer rows are not looked at when the worst group is sought."""


def answer_result(
    condition: str, samples: Sequence[Prediction], base: Sequence[Prediction], rows: Sequence[Example], margin: float
) -> AnswerResult:
    """The figures of a condition on questions; where rows were answered several times, each row's worst answer counts.

    Args:
        condition: its name.
        samples: the answers, draw after draw.
        base: the base's answers to the same rows.
        rows: the rows, VL or text-only.
        margin: of non-inferiority.
    """
    reference = {sample.row_id: sample for sample in base}
    row_of = {row.row_id: row for row in rows}
    worst = _worst_answers(samples)
    before = [reference[sample.row_id] for sample in worst]
    clusters = [row_of[sample.row_id].cluster for sample in worst]
    kinds = [row_of[sample.row_id].kind for sample in worst]
    scores = [sample.score for sample in worst]
    changes = [sample.score - old.score for sample, old in zip(worst, before, strict=True)]
    was_right, is_right = ([sample.score >= RIGHT for sample in group] for group in (before, worst))
    pairs = list(zip(was_right, is_right, strict=True))
    updates = _mean_updates(worst)
    bypassed = condition == "bypass"
    return AnswerResult(
        condition=condition,
        rows=len(worst),
        accuracy=cluster_bootstrap(scores, clusters, bounds=SHARE),
        difference=cluster_bootstrap(changes, clusters, bounds=DIFFERENCE),
        retention_ratio=_retention_ratio(scores, [sample.score for sample in before], clusters),
        answer_change_rate=_share([new.answer != old.answer for new, old in zip(worst, before, strict=True)]),
        right_to_wrong=_share([change < 0 for change in changes]),
        wrong_to_right=_share([change > 0 for change in changes]),
        mcnemar_p=mcnemar(losses=pairs.count((True, False)), gains=pairs.count((False, True))),
        non_inferiority=non_inferiority(was_right, is_right, clusters, margin),
        kl=_mean_kl(worst),
        format_errors=malformed_share(worst),
        worst_group=_worst_group(changes, kinds, clusters),
        by_kind=_mean_by(kinds, scores),
        fusion_calls=sum(sample.fusion_calls for sample in worst),
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
    condition: str, samples: Sequence[Prediction], base: Sequence[Prediction], rows: Sequence[Example]
) -> DocumentResult:
    """The figures of a condition on documents; of several draws, the one that takes most bits counts for each row.

    Where all rows are parts of one document, the parts are what is drawn: their intervals tell of this document alone.

    Raises:
        ValueError: there is one row only, which tells nothing of others.
    """
    if len({sample.row_id for sample in samples}) < 2:
        raise ValueError("expected at least two documents, or parts of one, got one")
    reference = {sample.row_id: sample for sample in base}
    cluster_of = {row.row_id: row.cluster for row in rows}
    worst = _worst_answers(samples)
    before = [reference[sample.row_id] for sample in worst]
    clusters = [cluster_of[sample.row_id] for sample in worst]
    if len(set(clusters)) < 2:
        clusters = [sample.row_id for sample in worst]
    sizes = [float(sample.num_bytes) for sample in worst]
    more = [_bits(new) - _bits(old) for new, old in zip(worst, before, strict=True)]
    updates = _mean_updates(worst)
    bypassed = condition == "bypass"
    return DocumentResult(
        condition=condition,
        rows=len(worst),
        bytes=sum(sample.num_bytes for sample in worst),
        bits_per_byte=_per_byte([_bits(sample) for sample in worst], sizes, clusters),
        difference=_per_byte(more, sizes, clusters),
        kl=_mean_kl(worst),
        fusion_calls=sum(sample.fusion_calls for sample in worst),
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
    samples: Sequence[Prediction],
    rows: Sequence[Example],
    *,
    metric: str = "exact_match",
    with_captions: bool = False,
) -> AudioResult:
    """The figures of a condition; caption metrics take seconds, and come only if they are asked for.

    Raises:
        InputError: caption metrics are asked for, and aac-metrics is not installed.
    """
    cluster_of = {row.row_id: row.cluster for row in rows}
    clusters = [cluster_of[sample.row_id] for sample in samples]
    return AudioResult(
        condition=condition,
        rows=len(samples),
        accuracy=cluster_bootstrap(audio_scores(samples, rows, metric), clusters, bounds=SHARE),
        token_f1=cluster_bootstrap([sample.token_f1 or 0.0 for sample in samples], clusters, bounds=SHARE),
        format_errors=malformed_share(samples),
        updates=_mean_updates(samples),
        captions=_caption_figures(samples, rows) if with_captions else None,
    )


def _caption_figures(samples: Sequence[Prediction], rows: Sequence[Example]) -> CaptionFigures | None:
    """Metrics over the rows that ask for a caption; None if there are fewer than two."""
    references = {row.row_id: row.answers for row in rows if row.kind == CAPTION}
    chosen = [sample for sample in samples if sample.row_id in references]
    if len(chosen) < 2:
        return None
    found = caption_scores([sample.answer for sample in chosen], [references[sample.row_id] for sample in chosen])
    return CaptionFigures(
        rows=len(chosen),
        means={metric: score.mean for metric, score in found.scores.items()},
        tokenizers={metric: score.tokenizer for metric, score in found.scores.items()},
        left_out=found.left_out,
    )


def _worst_answers(samples: Sequence[Prediction]) -> list[Prediction]:
    """For each row its worst sample, rows in the order of the first draw.

    Of a question that is the lowest score, of a document the most bits; of equal ones the largest divergence.
    """
    worst: dict[str, Prediction] = {}
    for sample in samples:
        other = worst.get(sample.row_id)
        if other is None or _goodness(sample) < _goodness(other):
            worst[sample.row_id] = sample
    return list(worst.values())


def _goodness(sample: Prediction) -> tuple[float, float, float]:
    return (sample.score, -(sample.bits or 0.0), -(sample.kl or 0.0))


def _bits(sample: Prediction) -> float:
    if sample.bits is None:
        raise ValueError(f"row {sample.row_id}: expected the bits of a document, got an answer")
    return sample.bits


def _worst_group(changes: Sequence[float], kinds: Sequence[str], clusters: Sequence[str]) -> Group | None:
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
    return Group(worst, len(indices), difference)


def _mean_by(kinds: Sequence[str], scores: Sequence[float]) -> dict[str, float]:
    by_kind: dict[str, list[float]] = defaultdict(list)
    for kind, score in zip(kinds, scores, strict=True):
        by_kind[kind].append(score)
    return {kind: sum(values) / len(values) for kind, values in sorted(by_kind.items())}


def _mean_kl(samples: Sequence[Prediction]) -> float:
    """Over tokens; 0 where there is none."""
    tokens = sum(sample.tokens for sample in samples)
    return sum((sample.kl or 0.0) * sample.tokens for sample in samples) / tokens if tokens else 0.0


def _mean_updates(samples: Sequence[Prediction]) -> list[float]:
    """Mean of each fused layer's update; empty where the fusion ran for no row."""
    heard = [sample.updates for sample in samples if sample.updates]
    return [sum(layer) / len(samples) for layer in zip(*heard, strict=True)]


def malformed_share(samples: Sequence[Prediction]) -> float:
    """Share of the answers that are empty, run over several lines or had to be cut off."""
    return _share([_is_malformed(sample) for sample in samples])


def _is_malformed(sample: Prediction) -> bool:
    return not sample.answer.strip() or "\n" in sample.answer.strip() or not sample.ended


def _is_bit_equal(sample: Prediction, base: Prediction) -> bool:
    return sample.logits_sha256 == base.logits_sha256 is not None and sample.answer == base.answer


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)
