"""The figures of a variant over its seeds, condition by condition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from safe_train.evaluation.conditions import SILENCE, find_condition, keep_retention
from safe_train.evaluation.results import AnswerResult, AudioResult, DocumentResult, Evaluation, QuestionType
from safe_train.metrics.intervals import Estimate
from safe_train.metrics.metric import Metric
from safe_train.metrics.non_inferiority import holm
from safe_train.metrics.registry import METRICS, find_metric
from safe_train.report.grouping import Member, VariantRuns
from safe_train.report.seeds import Interval, any_seed, over_seeds
from safe_train.report.standing import Part, Standing, assess_variant
from safe_train.report.summary import widen_unchanged

Status = Literal["bit-equal", "differs", "not a measurement", "not retention", "non-inferior", "worse", "open"]
"""Of a cell; "not retention": the fusion acted, but there was nothing that could have been lost."""

ResultPart = Literal["vl", "text", "documents", "audio"]


@dataclass(frozen=True)
class Margin:
    """Non-inferiority over seeds.

    Attributes:
        margin: the loss that is accepted, declared before the measurement.
        established_in: seeds whose own score test rules out a loss of the margin or more.
        lower_limit: the lowest of the seeds' one-sided 97.5 % limits.
        rows_needed: the largest number that a seed needs.
        established: in every seed, and by the interval over seeds where there is one.
    """

    margin: float
    established_in: int
    lower_limit: float
    rows_needed: int
    established: bool


@dataclass(frozen=True)
class AnswerCell:
    """A variant under a condition on VL examples or text-only questions; shares in 0..1, means over seeds.

    Attributes:
        seeds: the seeds it was measured with.
        rows: examples, one number a seed.
        change: accuracy minus the base's, paired.
        change_by_seed: its mean in each seed.
        accuracy: VQA accuracy.
        retention_ratio: accuracy over the base's; None where a seed has none.
        answer_change_rate: share of examples answered otherwise than by the base.
        right_to_wrong: share of examples whose accuracy fell.
        wrong_to_right: share of examples whose accuracy rose.
        kl: KL(base || SAFE) in nats, mean over answer tokens.
        format_errors: share of malformed answers.
        worst_group: the question type that loses most in any seed.
        by_kind: accuracy by question type, of those that every seed has.
        margin: whether a loss of the margin is ruled out.
        mcnemar_p: that as many right answers are lost as gained in every seed.
        mcnemar_p_holm: the same after Holm's correction over the variants; None for a positive control.
        updates: for each fused layer the mean ratio of the update to the hidden states; empty where none ran.
        is_measurement: whether the fusion had an effect in every seed.
        bit_equal: for the bypass, whether it is the base bit for bit in every seed; None elsewhere.
        status: what the cell says in a word.
    """

    seeds: list[int]
    rows: list[int]
    change: Interval
    change_by_seed: list[float]
    accuracy: float
    retention_ratio: float | None
    answer_change_rate: float
    right_to_wrong: float
    wrong_to_right: float
    kl: float
    format_errors: float
    worst_group: QuestionType | None
    by_kind: dict[str, float]
    margin: Margin
    mcnemar_p: float
    mcnemar_p_holm: float | None
    updates: list[float]
    is_measurement: bool
    bit_equal: bool | None
    status: Status

    @property
    def is_judged(self) -> bool:
        """Whether the change from the base says anything about retention."""
        return self.status not in ("not a measurement", "not retention")


@dataclass(frozen=True)
class DocumentCell:
    """A variant under a condition on documents, means over seeds.

    Attributes:
        seeds: the seeds it was measured with.
        rows: documents or parts of them, one number a seed.
        bits_per_byte: of their text.
        change: bits per byte minus the base's, paired; positive is worse.
        change_by_seed: its mean in each seed.
        kl: KL(base || SAFE) in nats, mean over tokens.
        is_measurement: whether the fusion had an effect in every seed.
        bit_equal: for the bypass, whether it is the base bit for bit in every seed; None elsewhere.
    """

    seeds: list[int]
    rows: list[int]
    bits_per_byte: float
    change: Interval
    change_by_seed: list[float]
    kl: float
    is_measurement: bool
    bit_equal: bool | None


@dataclass(frozen=True)
class AudioCell:
    """A variant under a condition on audio examples; shares in 0..1.

    Attributes:
        seeds: the seeds it was measured with.
        rows: examples, one number a seed.
        accuracy: mean score, by the variant's ``audio_metric``.
        token_f1: largest F1 of the answer's words with a reference's.
        gain: accuracy with the matched clip minus that here, paired; None for the matched clip itself.
        format_errors: share of malformed answers, mean over seeds.
        by_kind: accuracy by question type, of those that every seed has.
        captions: caption metrics by name, means over seeds; those that every seed has.
        tokenizers: by caption metric, what split the captions.
    """

    seeds: list[int]
    rows: list[int]
    accuracy: Interval
    token_f1: Interval
    gain: Interval | None
    format_errors: float
    by_kind: dict[str, float]
    captions: dict[str, float]
    tokenizers: dict[str, str]


@dataclass(frozen=True)
class Cost:
    """What a variant took, means over seeds.

    Attributes:
        trainable_parameters: how many numbers are trained.
        steps: optimizer steps.
        training_seconds: in steps, of the process that ended the run.
        evaluation_seconds: of the evaluation shown.
    """

    trainable_parameters: int
    steps: float
    training_seconds: float
    evaluation_seconds: float

    @property
    def step_seconds(self) -> float:
        """Of training, a step."""
        return self.training_seconds / self.steps if self.steps else 0.0


@dataclass(frozen=True)
class VariantFigures:
    """A variant with its settings, over its seeds.

    Attributes:
        name: unique in a report.
        variant: the retention variant.
        damage: above 0 in a positive control: the size of the damaged parts' update to that of the hidden states.
        seeds: of its runs.
        base: accuracy of the base on the VL examples.
        base_format_errors: share of the base's answers that are malformed.
        vl: by condition.
        text: text-only questions by condition; empty where there were none.
        base_text: accuracy of the base on them; None where there were none.
        base_text_format_errors: share of its answers that are malformed; None where there were none.
        documents: by condition; empty where there were none.
        base_bits_per_byte: of the base on them; None where there were none.
        audio: by condition.
        audio_metric: how answers to audio examples are scored, in words.
        worst_condition: on VL examples with audio attached and the gate open, the one furthest below the base; None if
            there is none.
        worst_text_condition: the same on text-only questions.
        worst_part: which of the two lies further below the base; text-only questions compete where they are a
            retention measurement. None where VL examples are none, or nothing was measured.
        standing: validity of the figures.
        lora: whether low-rank updates of the language model are trained too.
        procedural: whether the program made the examples that it was evaluated on.
        cost: what it took.
    """

    name: str
    variant: str
    damage: float
    seeds: list[int]
    base: Interval
    base_format_errors: float
    vl: dict[str, AnswerCell]
    text: dict[str, AnswerCell]
    base_text: Interval | None
    base_text_format_errors: float | None
    documents: dict[str, DocumentCell]
    base_bits_per_byte: Interval | None
    audio: dict[str, AudioCell]
    audio_metric: str
    worst_condition: str | None
    worst_text_condition: str | None
    worst_part: Part | None
    standing: Standing
    lora: bool
    procedural: bool
    cost: Cost

    @property
    def worst(self) -> AnswerCell | None:
        """The cell of the worst condition, over VL examples and text-only questions."""
        name, part = self.worst_name, self.worst_part
        return None if name is None or part is None else self.answers(part)[name]

    @property
    def worst_name(self) -> str | None:
        """The condition of :attr:`worst`."""
        by_part = {"VL": self.worst_condition, "text": self.worst_text_condition}
        return None if self.worst_part is None else by_part[self.worst_part]

    def answers(self, part: Part) -> dict[str, AnswerCell]:
        """The cells of a part, by condition."""
        return self.vl if part == "VL" else self.text

    def judged_parts(self) -> list[Part]:
        """The parts whose changes are a retention measurement, in every seed."""
        parts: list[Part] = [] if self.standing.not_retention else ["VL"]
        return [*parts, "text"] if self.text and not self.standing.not_text_retention else parts

    @property
    def metric(self) -> Metric:
        """What scores audio examples; of seeds scored by several, one that is written as a share."""
        labels = {metric.label: metric for metric in METRICS.values()}
        return labels.get(self.audio_metric) or find_metric(self.audio_metric)

    @property
    def gain(self) -> Interval | None:
        """Audio accuracy with the matched clip minus that in silence."""
        return self.audio[SILENCE.name].gain if SILENCE.name in self.audio else None


def build_variants(groups: Sequence[VariantRuns]) -> list[VariantFigures]:
    """All variants, with Holm's correction over those that are no positive control, for each condition."""
    variants = [_build_variant(group) for group in groups]
    vl, text = _correct_p_values(variants, "VL"), _correct_p_values(variants, "text")
    return [replace(variant, vl=vl[variant.name], text=text[variant.name]) for variant in variants]


def _correct_p_values(variants: Sequence[VariantFigures], part: Part) -> dict[str, dict[str, AnswerCell]]:
    """The cells of a part with corrected p-values, by variant and condition."""
    corrected: dict[str, dict[str, float]] = {}
    for condition in dict.fromkeys(name for variant in variants for name in variant.answers(part)):
        having = [variant for variant in variants if condition in variant.answers(part) and not variant.damage]
        corrected[condition] = holm({variant.name: variant.answers(part)[condition].mcnemar_p for variant in having})
    return {
        variant.name: {
            name: replace(
                cell, mcnemar_p_holm=corrected[name].get(variant.name) if find_condition(name).attach else None
            )
            for name, cell in variant.answers(part).items()
        }
        for variant in variants
    }


def _build_variant(group: VariantRuns) -> VariantFigures:
    evaluations = [member.evaluation.result for member in group.members]
    stands = assess_variant(group)
    vl = _build_answers(group, "vl", void=bool(stands.not_retention))
    text = _build_answers(group, "text", void=bool(stands.not_text_retention))
    worst_vl, worst_text = _find_worst(vl), _find_worst(text)
    competing: dict[Part, float] = {}
    if worst_vl is not None and not stands.not_retention:
        competing["VL"] = vl[worst_vl].change.mean
    if competing and worst_text is not None and not stands.not_text_retention:
        competing["text"] = text[worst_text].change.mean
    bases = [evaluation.base_text for evaluation in evaluations if evaluation.base_text is not None]
    malformed = [e.base_text_format_errors for e in evaluations if e.base_text_format_errors is not None]
    bits = [evaluation.base_bits_per_byte for evaluation in evaluations if evaluation.base_bits_per_byte is not None]
    return VariantFigures(
        name=group.name,
        variant=group.variant,
        damage=group.damage,
        seeds=[member.seed for member in group.members],
        base=over_seeds([evaluation.base for evaluation in evaluations]),
        base_format_errors=_mean([evaluation.base_format_errors for evaluation in evaluations]),
        vl=vl,
        text=text,
        base_text=over_seeds(bases) if bases else None,
        base_text_format_errors=_mean(malformed) if malformed else None,
        documents={
            name: _document_cell([(member.seed, result.documents[name]) for member, result in measured])
            for name, measured in _by_condition(group, "documents").items()
        },
        base_bits_per_byte=over_seeds(bits) if bits else None,
        audio={
            name: _audio_cell([(m.seed, e.audio[name], e.audio_gain.get(name)) for m, e in measured])
            for name, measured in _by_condition(group, "audio").items()
        },
        audio_metric=", ".join(dict.fromkeys(find_metric(evaluation.audio_metric).label for evaluation in evaluations)),
        worst_condition=worst_vl,
        worst_text_condition=worst_text,
        worst_part=min(competing, key=competing.__getitem__) if competing else None,
        standing=stands,
        lora=any(member.run.config.model.lora_rank > 0 for member in group.members),
        procedural=any(member.run.is_procedural for member in group.members),
        cost=_cost(group),
    )


def _by_condition(group: VariantRuns, part: ResultPart) -> dict[str, list[tuple[Member, Evaluation]]]:
    """By condition, the runs that measured it, with their evaluations."""
    found: dict[str, list[tuple[Member, Evaluation]]] = {}
    for member in group.members:
        for name in getattr(member.evaluation.result, part):
            found.setdefault(name, []).append((member, member.evaluation.result))
    return found


def _build_answers(group: VariantRuns, part: Literal["vl", "text"], *, void: bool) -> dict[str, AnswerCell]:
    return {
        name: _answer_cell(name, [(m.seed, getattr(e, part)[name]) for m, e in measured], void=void)
        for name, measured in _by_condition(group, part).items()
    }


def _find_worst(cells: dict[str, AnswerCell]) -> str | None:
    compared = {name: cell.change.mean for name, cell in keep_retention(cells).items()}
    return min(compared, key=compared.__getitem__) if compared else None


def _answer_cell(condition: str, measured: Sequence[tuple[int, AnswerResult]], *, void: bool) -> AnswerCell:
    results = [result for _, result in measured]

    def mean(value: Callable[[AnswerResult], float]) -> float:
        return _mean([value(result) for result in results])

    ratios = [result.retention_ratio.mean for result in results if result.retention_ratio is not None]
    change = over_seeds([widen_unchanged(result.difference, result.rows) for result in results])
    margin = _margin(results, change)
    measures = all(result.is_measurement for result in results)
    flags = [result.bit_equal for result in results if result.bit_equal is not None]
    bit_equal = all(flags) if flags else None
    return AnswerCell(
        seeds=[seed for seed, _ in measured],
        rows=[result.rows for result in results],
        change=change,
        change_by_seed=[result.difference.mean for result in results],
        accuracy=mean(lambda result: result.accuracy.mean),
        retention_ratio=_mean(ratios) if len(ratios) == len(results) else None,
        answer_change_rate=mean(lambda result: result.answer_change_rate),
        right_to_wrong=mean(lambda result: result.right_to_wrong),
        wrong_to_right=mean(lambda result: result.wrong_to_right),
        kl=mean(lambda result: result.kl),
        format_errors=mean(lambda result: result.format_errors),
        worst_group=_worst_group(results),
        by_kind=_mean_by_kind([result.by_kind for result in results]),
        margin=margin,
        mcnemar_p=any_seed([result.mcnemar_p for result in results]),
        mcnemar_p_holm=None,
        updates=_mean_by_layer([result.updates for result in results]),
        is_measurement=measures,
        bit_equal=bit_equal,
        status=_status(condition, change, margin, measures=measures, void=void, bit_equal=bit_equal),
    )


def _status(
    condition: str, change: Interval, margin: Margin, *, measures: bool, void: bool, bit_equal: bool | None
) -> Status:
    if not find_condition(condition).attach:
        return "bit-equal" if bit_equal else "differs"
    if not measures:
        return "not a measurement"
    if void:
        return "not retention"
    if margin.established:
        return "non-inferior"
    return "worse" if change.high < -margin.margin else "open"


def _margin(results: Sequence[AnswerResult], change: Interval) -> Margin:
    """The score test alone knows how little a row without a loss proves; the interval over seeds, how seeds differ."""
    tests = [result.non_inferiority for result in results]
    margin = min(test.margin for test in tests)
    return Margin(
        margin=margin,
        established_in=sum(test.established for test in tests),
        lower_limit=min(test.lower_limit for test in tests),
        rows_needed=max(test.rows_needed for test in tests),
        established=all(test.established for test in tests) and (change.kind == "rows" or change.low > -margin),
    )


def _worst_group(results: Sequence[AnswerResult]) -> QuestionType | None:
    groups = [result.worst_group for result in results if result.worst_group is not None]
    return min(groups, key=lambda group: group.difference.mean, default=None)


def _mean_by_kind(by_seed: Sequence[dict[str, float]]) -> dict[str, float]:
    """Means over seeds; results of an earlier version name no type."""
    shared = [kind for kind in by_seed[0] if all(kind in found for found in by_seed)]
    return {kind: _mean([found[kind] for found in by_seed]) for kind in shared}


def _document_cell(measured: Sequence[tuple[int, DocumentResult]]) -> DocumentCell:
    results = [result for _, result in measured]
    flags = [result.bit_equal for result in results if result.bit_equal is not None]
    return DocumentCell(
        seeds=[seed for seed, _ in measured],
        rows=[result.rows for result in results],
        bits_per_byte=_mean([result.bits_per_byte.mean for result in results]),
        change=over_seeds([result.difference for result in results]),
        change_by_seed=[result.difference.mean for result in results],
        kl=_mean([result.kl for result in results]),
        is_measurement=all(result.is_measurement for result in results),
        bit_equal=all(flags) if flags else None,
    )


def _audio_cell(measured: Sequence[tuple[int, AudioResult, Estimate | None]]) -> AudioCell:
    gains = [widen_unchanged(gain, result.rows) for _, result, gain in measured if gain is not None]
    captions = [result.captions for _, result, _ in measured if result.captions is not None]
    whole = len(captions) == len(measured)
    shared = [name for name in captions[0].means if all(name in c.means for c in captions)] if whole else []
    return AudioCell(
        seeds=[seed for seed, _, _ in measured],
        rows=[result.rows for _, result, _ in measured],
        accuracy=over_seeds([result.accuracy for _, result, _ in measured]),
        token_f1=over_seeds([result.token_f1 for _, result, _ in measured]),
        gain=over_seeds(gains) if gains else None,
        format_errors=_mean([result.format_errors for _, result, _ in measured]),
        by_kind=_mean_by_kind([result.by_kind for _, result, _ in measured]),
        captions={name: _mean([figures.means[name] for figures in captions]) for name in shared},
        tokenizers={name: captions[0].tokenizers[name] for name in shared},
    )


def _cost(group: VariantRuns) -> Cost:
    trainings = [member.run.metrics["training"] for member in group.members]
    return Cost(
        trainable_parameters=int(group.members[0].run.described["effective"]["trainable_parameters"]),
        steps=_mean([training["steps"] for training in trainings]),
        training_seconds=_mean([training["seconds"] for training in trainings]),
        evaluation_seconds=_mean([member.evaluation.result.seconds for member in group.members]),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _mean_by_layer(updates: Sequence[Sequence[float]]) -> list[float]:
    heard = [layers for layers in updates if layers]
    return [_mean(layer) for layer in zip(*heard, strict=True)]
