"""From answers to figures: everything here is a function of the samples and the rows alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from safe_train.data.rows import CAPTION, Row
from safe_train.evaluation.audio_metric import audio_scores
from safe_train.evaluation.samples import Sample
from safe_train.metrics.captions import caption_scores
from safe_train.metrics.intervals import DIFFERENCE, SHARE, Estimate, cluster_bootstrap, cluster_bootstrap_ratio
from safe_train.metrics.non_inferiority import NonInferiority, mcnemar, non_inferiority
from safe_train.metrics.vqa_accuracy import normalize_answer, vqa_accuracy

RIGHT = 0.5
"""From this score on an answer counts as right where only right and wrong are told apart."""

SMALLEST_GROUP = 20
"""Question types with fewer rows are not looked at when the worst group is sought."""


@dataclass(frozen=True)
class Group:
    """The question type that loses most.

    Attributes:
        kind: the question type.
        rows: how many rows are of it.
        difference: accuracy minus the base's.
    """

    kind: str
    rows: int
    difference: Estimate


@dataclass(frozen=True)
class AnswerResult:
    """One condition on questions that the base answers, VL or text-only; shares in 0..1, intervals 95 %, by cluster.

    Attributes:
        condition: its name.
        rows: rows it was measured on.
        accuracy: VQA accuracy; of questions with fewer than four references, as text-only ones commonly are, exact
            match after the same normalization.
        difference: accuracy minus the base's on the same rows, paired.
        retention_ratio: accuracy over the base's on the same rows; None where the base has none right, or all rows are
            of one cluster.
        answer_change_rate: share of rows answered otherwise than by the base.
        right_to_wrong: share of rows whose accuracy fell.
        wrong_to_right: share of rows whose accuracy rose.
        mcnemar_p: two-sided exact p-value that as many right answers are lost as gained.
        non_inferiority: whether a loss of the margin or more is ruled out.
        kl: mean over answer tokens of KL(base || SAFE) in nats; 0 in the bypass.
        format_errors: share of answers that are empty, run over several lines or had to be cut off.
        worst_group: the question type that loses most, or None if no type has enough rows.
        by_kind: accuracy by question type.
        fusion_calls: times that a fusion layer changed a row's hidden states, over all rows.
        updates: for each fused layer, the mean ratio of the update to the hidden states that it is added to.
        is_measurement: whether the fusion had any effect at all; if not, nothing was measured.
        bit_equal: for the bypass, whether logits and answers are the base's bit for bit; None elsewhere.
    """

    condition: str
    rows: int
    accuracy: Estimate
    difference: Estimate
    retention_ratio: Estimate | None
    answer_change_rate: float
    right_to_wrong: float
    wrong_to_right: float
    mcnemar_p: float
    non_inferiority: NonInferiority
    kl: float
    format_errors: float
    worst_group: Group | None
    by_kind: dict[str, float]
    fusion_calls: int
    updates: list[float]
    is_measurement: bool
    bit_equal: bool | None


@dataclass(frozen=True)
class DocumentResult:
    """One condition on documents, text-only rows without a question; intervals 95 %, clustered by document.

    Attributes:
        condition: its name.
        rows: documents, or parts of them, that it was measured on.
        bytes: length of them all in UTF-8.
        bits_per_byte: ``-sum log2 p(token | tokens before) / bytes`` over all rows.
        difference: bits per byte minus the base's, paired; above 0 the text is told worse.
        kl: mean over tokens of KL(base || SAFE) in nats; 0 in the bypass.
        fusion_calls: times that a fusion layer changed a row's hidden states, over all rows.
        updates: for each fused layer, the mean ratio of the update to the hidden states that it is added to.
        is_measurement: whether the fusion had any effect at all; if not, nothing was measured.
        bit_equal: for the bypass, whether the logits are the base's bit for bit; None elsewhere.
    """

    condition: str
    rows: int
    bytes: int
    bits_per_byte: Estimate
    difference: Estimate
    kl: float
    fusion_calls: int
    updates: list[float]
    is_measurement: bool
    bit_equal: bool | None


@dataclass(frozen=True)
class CaptionFigures:
    """Caption metrics of a condition.

    Attributes:
        rows: rows that ask for a caption.
        means: by metric; CIDEr-D runs from 0 to 10.
        tokenizers: by metric, what split the captions; scores by different tokenizers do not compare.
        left_out: metrics that could not be computed, each with the reason.
    """

    rows: int
    means: dict[str, float]
    tokenizers: dict[str, str]
    left_out: dict[str, str]


@dataclass(frozen=True)
class AudioResult:
    """One condition on audio rows.

    Attributes:
        condition: its name.
        rows: rows it was measured on.
        accuracy: exact match with a reference after normalization, or of captions what ``Evaluation.audio_metric``
            names: token F1, or a tenth of CIDEr-D, which runs from 0 to 10.
        token_f1: largest F1 of the answer's words with a reference's.
        format_errors: share of answers that are empty, run over several lines or had to be cut off.
        updates: for each fused layer, the mean ratio of the update to the hidden states that it is added to.
        captions: caption metrics over the rows that ask for a caption, if they were asked for.
    """

    condition: str
    rows: int
    accuracy: Estimate
    token_f1: Estimate
    format_errors: float
    updates: list[float]
    captions: CaptionFigures | None = None


class Worst(NamedTuple):
    """The condition that is furthest below the base.

    Attributes:
        kind: ``VL`` or ``text``.
        condition: its name.
        difference: accuracy minus the base's.
    """

    kind: str
    condition: str
    difference: Estimate


@dataclass(frozen=True)
class Evaluation:
    """All conditions.

    Attributes:
        base: accuracy of the untouched base on the VL rows.
        base_format_errors: share of the base's answers with a format error.
        vl: results on VL rows by condition.
        audio: results on audio rows by condition.
        audio_gain: audio accuracy with the matched clip minus that under another condition, paired, by condition.
        seconds: how long it took.
        guessing: VL accuracy without looking: each row is given the answer that is most common among the other
            clusters' rows of its kind. None in results of a version that did not measure it.
        base_above_guessing: the base's VL accuracy minus that, paired; None likewise.
        text: results on text-only questions by condition; empty without such rows.
        base_text: accuracy of the untouched base on them; None without.
        base_text_format_errors: share of its answers with a format error; None without.
        text_guessing: as ``guessing``, for text-only questions.
        base_text_above_guessing: as ``base_above_guessing``.
        documents: results on documents by condition; empty without.
        base_bits_per_byte: of the untouched base on them; None without.
        audio_metric: what ``audio`` calls accuracy: ``exact_match``, ``token_f1`` or ``cider_d``.
    """

    base: Estimate
    base_format_errors: float
    vl: dict[str, AnswerResult]
    audio: dict[str, AudioResult]
    audio_gain: dict[str, Estimate]
    seconds: float
    guessing: Estimate | None = None
    base_above_guessing: Estimate | None = None
    text: dict[str, AnswerResult] = field(default_factory=dict)
    base_text: Estimate | None = None
    base_text_format_errors: float | None = None
    text_guessing: Estimate | None = None
    base_text_above_guessing: Estimate | None = None
    documents: dict[str, DocumentResult] = field(default_factory=dict)
    base_bits_per_byte: Estimate | None = None
    audio_metric: str = "exact_match"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @property
    def worst_vl_difference(self) -> Estimate:
        """The condition with audio attached and the gate open that is furthest below the base."""
        differences = [result.difference for name, result in self.vl.items() if is_retention_condition(name)]
        return min(differences, key=lambda estimate: estimate.mean)

    @property
    def worst_difference(self) -> Worst | None:
        """The same over VL and text-only questions; None where no such condition was measured."""
        found = [
            Worst(kind, name, result.difference)
            for kind, results in (("VL", self.vl), ("text", self.text))
            for name, result in results.items()
            if is_retention_condition(name)
        ]
        return min(found, key=lambda worst: worst.difference.mean, default=None)

    def passed_although_damaged(self) -> list[str]:
        """What a positive control should have failed: conditions without a loss, and hearing that still helps.

        Documents must be told worse, by more bits per byte than chance.
        """
        found = [
            f"{kind} {name}"
            for kind, results in (("VL", self.vl), ("text", self.text))
            for name, result in results.items()
            if is_retention_condition(name) and (result.non_inferiority.established or result.difference.high >= 0.0)
        ]
        found += [
            f"documents {name}"
            for name, result in self.documents.items()
            if is_retention_condition(name) and result.difference.low <= 0.0
        ]
        found += ["audio gain"] if self.audio_gain["silence"].low > 0.0 else []
        bypasses = [results["bypass"] for results in (self.vl, self.text, self.documents) if "bypass" in results]
        return [*found, *([] if all(b.bit_equal for b in bypasses) else ["the bypass, which is to stay the base,"])]


def is_retention_condition(name: str) -> bool:
    """Whether a VL condition counts for "the worst": audio attached and the gate fully open."""
    return name != "bypass" and not name.startswith("gate_")


def answer_result(
    condition: str, samples: Sequence[Sample], base: Sequence[Sample], rows: Sequence[Row], margin: float
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
    tokens = sum(sample.tokens for sample in worst)
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
        kl=sum((sample.kl or 0.0) * sample.tokens for sample in worst) / tokens if tokens else 0.0,
        format_errors=_share([_is_malformed(sample) for sample in worst]),
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
    condition: str, samples: Sequence[Sample], base: Sequence[Sample], rows: Sequence[Row]
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
    tokens = sum(sample.tokens for sample in worst)
    updates = _mean_updates(worst)
    bypassed = condition == "bypass"
    return DocumentResult(
        condition=condition,
        rows=len(worst),
        bytes=sum(sample.num_bytes for sample in worst),
        bits_per_byte=_per_byte([_bits(sample) for sample in worst], sizes, clusters),
        difference=_per_byte(more, sizes, clusters),
        kl=sum((sample.kl or 0.0) * sample.tokens for sample in worst) / tokens if tokens else 0.0,
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
    samples: Sequence[Sample],
    rows: Sequence[Row],
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
        format_errors=_share([_is_malformed(sample) for sample in samples]),
        updates=_mean_updates(samples),
        captions=_caption_figures(samples, rows) if with_captions else None,
    )


def _caption_figures(samples: Sequence[Sample], rows: Sequence[Row]) -> CaptionFigures | None:
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


def summarize(
    base: Sequence[Sample],
    vl: Mapping[str, Sequence[Sample]],
    audio: Mapping[str, Sequence[Sample]],
    vl_rows: Sequence[Row],
    audio_rows: Sequence[Row],
    *,
    margin: float,
    seconds: float,
    with_captions: bool = False,
    base_text: Sequence[Sample] = (),
    text: Mapping[str, Sequence[Sample]] = MappingProxyType({}),
    text_rows: Sequence[Row] = (),
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


def _only(samples: Sequence[Sample], rows: Sequence[Row]) -> list[Sample]:
    ids = {row.row_id for row in rows}
    return [sample for sample in samples if sample.row_id in ids]


@dataclass(frozen=True)
class _BaseFigures:
    """The base's accuracy, that of guessing, the one minus the other, paired, and the base's format errors."""

    accuracy: Estimate
    guessing: Estimate
    above_guessing: Estimate
    format_errors: float


def _base_figures(base: Sequence[Sample], rows: Sequence[Row]) -> _BaseFigures:
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
        format_errors=_share([_is_malformed(sample) for sample in base]),
    )


def _base_bits_per_byte(base: Sequence[Sample], rows: Sequence[Row]) -> Estimate:
    return document_result("base", base, base, rows).bits_per_byte


def guessing_scores(rows: Sequence[Row]) -> list[float]:
    """What each row would score if it were given the answer most common among other clusters' rows of its kind.

    Answers are the rows' first references, normalized. Answers that are equally common are each given a share, and so
    is one that is the most common only while the row's own cluster counts: of answers that are as common as each other,
    leaving a row out would make its own the rarer one, and guessing would seem worse than it is. A row whose kind comes
    in no other cluster scores 0.
    """
    total: dict[str, Counter[str]] = defaultdict(Counter)
    own: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for row in rows:
        answer = normalize_answer(row.answers[0])
        total[row.kind][answer] += 1
        own[row.kind, row.cluster][answer] += 1
    levels = {kind: Counter(counts.values()) for kind, counts in total.items()}
    guesses = {key: _Guesses.of(total[key[0]], levels[key[0]], counts) for key, counts in own.items()}
    return [guesses[row.kind, row.cluster].score(row) for row in rows]


@dataclass(frozen=True)
class _Guesses:
    """The answers that a cluster's rows of a kind are given, each a share; there may be thousands, so none is listed.

    Attributes:
        total: how often each answer is given to questions of the kind.
        own: how often within the cluster.
        most: how often the most common answer is given outside of the cluster.
        number: of the answers.
        highest: how often the most common answer of all is given.
    """

    total: Mapping[str, int]
    own: Mapping[str, int]
    most: int
    number: int
    highest: int

    @classmethod
    def of(cls, total: Mapping[str, int], levels: Counter[int], own: Mapping[str, int]) -> _Guesses:
        """Of ``total``, with the number of answers that are given each number of times."""
        elsewhere = levels - Counter(total[answer] for answer in own)
        most = max([*elsewhere, *(total[answer] - count for answer, count in own.items())])
        found = cls(total, own, most, 0, max(levels))
        return replace(found, number=elsewhere[most] + sum(found.holds(answer) for answer in own))

    def holds(self, answer: str) -> bool:
        """Whether the answer is among them."""
        count = self.total.get(answer, 0)
        others = count - self.own.get(answer, 0)
        return others > 0 and (others == self.most or count == self.highest)

    def score(self, row: Row) -> float:
        """The mean score of the answers; only those that are among the references have any."""
        right = {answer for reference in row.answers if self.holds(answer := normalize_answer(reference))}
        total = sum(vqa_accuracy(answer, row.answers, normalize_unanimous=True) for answer in right)
        return total / self.number if right else 0.0


def _worst_answers(samples: Sequence[Sample]) -> list[Sample]:
    """For each row its worst sample, rows in the order of the first draw.

    Of a question that is the lowest score, of a document the most bits; of equal ones the largest divergence.
    """
    worst: dict[str, Sample] = {}
    for sample in samples:
        other = worst.get(sample.row_id)
        if other is None or _goodness(sample) < _goodness(other):
            worst[sample.row_id] = sample
    return list(worst.values())


def _goodness(sample: Sample) -> tuple[float, float, float]:
    return (sample.score, -(sample.bits or 0.0), -(sample.kl or 0.0))


def _bits(sample: Sample) -> float:
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


def _mean_updates(samples: Sequence[Sample]) -> list[float]:
    """Mean of each fused layer's update; empty where the fusion ran for no row."""
    heard = [sample.updates for sample in samples if sample.updates]
    return [sum(layer) / len(samples) for layer in zip(*heard, strict=True)]


def _is_malformed(sample: Sample) -> bool:
    return not sample.answer.strip() or "\n" in sample.answer.strip() or not sample.ended


def _is_bit_equal(sample: Sample, base: Sample) -> bool:
    return sample.logits_sha256 == base.logits_sha256 is not None and sample.answer == base.answer


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)
