"""The figures of an arm over its seeds, condition by condition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from safe_train.evaluation.results import AnswerResult, AudioResult, is_retention_condition
from safe_train.evaluation.results import Group as QuestionType
from safe_train.metrics.intervals import Estimate
from safe_train.metrics.non_inferiority import holm
from safe_train.report.grouping import Group
from safe_train.report.seeds import Interval, any_seed, over_seeds

Status = Literal["bit-equal", "differs", "not a measurement", "non-inferior", "worse", "open"]


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
class VLCell:
    """An arm under a condition on VL rows; shares in 0..1, means over seeds.

    Attributes:
        seeds: the seeds it was measured with.
        rows: rows, one number a seed.
        change: accuracy minus the base's, paired.
        change_by_seed: its mean in each seed.
        accuracy: VQA accuracy.
        retention_ratio: accuracy over the base's; None where a seed has none.
        answer_change_rate: share of rows answered otherwise than by the base.
        right_to_wrong: share of rows whose accuracy fell.
        wrong_to_right: share of rows whose accuracy rose.
        kl: KL(base || SAFE) in nats, mean over answer tokens.
        format_errors: share of malformed answers.
        worst_group: the question type that loses most in any seed.
        margin: whether a loss of the margin is ruled out.
        mcnemar_p: that as many right answers are lost as gained in every seed.
        mcnemar_p_holm: the same after Holm's correction over the arms; None for a positive control.
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
    margin: Margin
    mcnemar_p: float
    mcnemar_p_holm: float | None
    updates: list[float]
    is_measurement: bool
    bit_equal: bool | None
    status: Status


@dataclass(frozen=True)
class AudioCell:
    """An arm under a condition on audio rows; shares in 0..1.

    Attributes:
        seeds: the seeds it was measured with.
        rows: rows, one number a seed.
        accuracy: exact match with a reference.
        token_f1: largest F1 of the answer's words with a reference's.
        gain: accuracy with the matched clip minus that here, paired; None for the matched clip itself.
        format_errors: share of malformed answers, mean over seeds.
        captions: caption metrics by name, means over seeds; those that every seed has.
        tokenizers: by caption metric, what split the captions.
    """

    seeds: list[int]
    rows: list[int]
    accuracy: Interval
    token_f1: Interval
    gain: Interval | None
    format_errors: float
    captions: dict[str, float]
    tokenizers: dict[str, str]


@dataclass(frozen=True)
class Cost:
    """What an arm took, means over seeds.

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
class Arm:
    """A variant with its settings, over its seeds.

    Attributes:
        name: unique in a report.
        variant: the retention variant.
        damage: above 0 in a positive control: the size of the damaged parts' update to that of the hidden states.
        seeds: of its runs.
        base: accuracy of the untouched base on the VL rows.
        base_format_errors: share of the base's answers that are malformed.
        vl: by condition.
        audio: by condition.
        worst_condition: with audio attached and the gate open, the one furthest below the base; None if there is none.
        lora: whether low-rank updates of the language model are trained too.
        cost: what it took.
    """

    name: str
    variant: str
    damage: float
    seeds: list[int]
    base: Interval
    base_format_errors: float
    vl: dict[str, VLCell]
    audio: dict[str, AudioCell]
    worst_condition: str | None
    lora: bool
    cost: Cost

    @property
    def worst(self) -> VLCell | None:
        """The cell of the worst condition."""
        return None if self.worst_condition is None else self.vl[self.worst_condition]

    @property
    def gain(self) -> Interval | None:
        """Audio accuracy with the matched clip minus that in silence."""
        return self.audio["silence"].gain if "silence" in self.audio else None


def build_arms(groups: Sequence[Group]) -> list[Arm]:
    """All arms, with Holm's correction over those that are no positive control, for each condition."""
    arms = [_arm(group) for group in groups]
    corrected: dict[str, dict[str, float]] = {}
    for condition in dict.fromkeys(name for arm in arms for name in arm.vl):
        tested = {arm.name: arm.vl[condition].mcnemar_p for arm in arms if condition in arm.vl and not arm.damage}
        corrected[condition] = holm(tested)
    return [
        replace(
            arm,
            vl={
                name: replace(cell, mcnemar_p_holm=corrected[name].get(arm.name) if name != "bypass" else None)
                for name, cell in arm.vl.items()
            },
        )
        for arm in arms
    ]


def _arm(group: Group) -> Arm:
    evaluations = [member.evaluation.result for member in group.members]
    vl_names = list(dict.fromkeys(name for evaluation in evaluations for name in evaluation.vl))
    audio_names = list(dict.fromkeys(name for evaluation in evaluations for name in evaluation.audio))
    vl = {name: _vl_cell(name, [(m.seed, e.vl[name]) for m, e in _having(group, "vl", name)]) for name in vl_names}
    audio = {
        name: _audio_cell(
            [(m.seed, e.audio[name], e.audio_gain.get(name)) for m, e in _having(group, "audio", name)],
        )
        for name in audio_names
    }
    compared = {name: cell.change.mean for name, cell in vl.items() if is_retention_condition(name)}
    return Arm(
        name=group.name,
        variant=group.variant,
        damage=group.damage,
        seeds=[member.seed for member in group.members],
        base=over_seeds([evaluation.base for evaluation in evaluations]),
        base_format_errors=_mean([evaluation.base_format_errors for evaluation in evaluations]),
        vl=vl,
        audio=audio,
        worst_condition=min(compared, key=compared.__getitem__) if compared else None,
        lora=any(member.run.config.model.lora_rank > 0 for member in group.members),
        cost=_cost(group),
    )


def _having(group: Group, part: Literal["vl", "audio"], condition: str) -> list:
    pairs = [(member, member.evaluation.result) for member in group.members]
    return [(member, result) for member, result in pairs if condition in getattr(result, part)]


def _vl_cell(condition: str, measured: Sequence[tuple[int, AnswerResult]]) -> VLCell:
    results = [result for _, result in measured]

    def mean(value: Callable[[AnswerResult], float]) -> float:
        return _mean([value(result) for result in results])

    ratios = [result.retention_ratio.mean for result in results if result.retention_ratio is not None]
    change = over_seeds([result.difference for result in results])
    margin = _margin(results, change)
    measures = all(result.is_measurement for result in results)
    flags = [result.bit_equal for result in results if result.bit_equal is not None]
    bit_equal = all(flags) if flags else None
    return VLCell(
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
        margin=margin,
        mcnemar_p=any_seed([result.mcnemar_p for result in results]),
        mcnemar_p_holm=None,
        updates=_mean_by_layer([result.updates for result in results]),
        is_measurement=measures,
        bit_equal=bit_equal,
        status=_status(condition, change, margin, measures=measures, bit_equal=bit_equal),
    )


def _status(condition: str, change: Interval, margin: Margin, *, measures: bool, bit_equal: bool | None) -> Status:
    if condition == "bypass":
        return "bit-equal" if bit_equal else "differs"
    if not measures:
        return "not a measurement"
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


def _audio_cell(measured: Sequence[tuple[int, AudioResult, Estimate | None]]) -> AudioCell:
    gains = [gain for _, _, gain in measured if gain is not None]
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
        captions={name: _mean([figures.means[name] for figures in captions]) for name in shared},
        tokenizers={name: captions[0].tokenizers[name] for name in shared},
    )


def _cost(group: Group) -> Cost:
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
