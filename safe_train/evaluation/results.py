"""Results of an evaluation, by condition."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from safe_train.evaluation.conditions import BYPASS, SILENCE, keep_retention
from safe_train.metrics.intervals import Estimate
from safe_train.metrics.non_inferiority import NonInferiority


@dataclass(frozen=True)
class QuestionType:
    """The question type that loses most.

    Attributes:
        kind: the question type.
        rows: number of examples of it.
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
        rows: how many examples it was measured on.
        accuracy: VQA accuracy; of questions with fewer than four references, as text-only ones commonly are, exact
            match after the same normalization.
        difference: accuracy minus the base's on the same examples, paired.
        retention_ratio: accuracy over the base's on the same examples; None where the base has none right, or all
            examples are of one cluster.
        answer_change_rate: share of examples whose answer differs from the base's.
        right_to_wrong: share of examples whose accuracy fell.
        wrong_to_right: share of examples whose accuracy rose.
        mcnemar_p: two-sided exact p-value that as many right answers are lost as gained.
        non_inferiority: whether a loss of the margin or more is ruled out.
        kl: mean over answer tokens of KL(base || SAFE) in nats; 0 in the bypass.
        format_errors: share of answers that are empty, run over several lines or had to be cut off.
        worst_group: the question type that loses most, or None if no type has enough examples.
        by_kind: accuracy by question type.
        fusion_calls: times that a fusion layer changed an example's hidden states, over all examples.
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
    worst_group: QuestionType | None
    by_kind: dict[str, float]
    fusion_calls: int
    updates: list[float]
    is_measurement: bool
    bit_equal: bool | None


@dataclass(frozen=True)
class DocumentResult:
    """One condition on documents, text-only examples without a question; intervals 95 %, clustered by document.

    Attributes:
        condition: its name.
        rows: number of documents, or parts of them, that it was measured on.
        bytes: their total length in UTF-8.
        bits_per_byte: ``-sum log2 p(token | tokens before) / bytes`` over all examples.
        difference: bits per byte minus the base's, paired; above 0, the text is predicted worse.
        kl: mean over tokens of KL(base || SAFE) in nats; 0 in the bypass.
        fusion_calls: times that a fusion layer changed an example's hidden states, over all examples.
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
        rows: number of examples that ask for a caption.
        means: by metric, in its own range.
        tokenizers: by metric, the captions' tokenizer; scores of different tokenizers are not comparable.
        left_out: metrics that could not be computed, with reasons.
    """

    rows: int
    means: dict[str, float]
    tokenizers: dict[str, str]
    left_out: dict[str, str]


@dataclass(frozen=True)
class AudioResult:
    """One condition on audio examples.

    Attributes:
        condition: its name.
        rows: how many examples it was measured on.
        accuracy: mean over the examples of exact match, or for captions of ``Evaluation.audio_metric``, divided by the
            metric's highest value.
        token_f1: largest F1 of the answer's words with a reference's.
        format_errors: share of answers that are empty, run over several lines or had to be cut off.
        updates: for each fused layer, the mean ratio of the update to the hidden states that it is added to.
        captions: caption metrics over the examples that ask for a caption, if they were asked for.
        by_kind: ``accuracy`` by question type; empty in results of a version that did not measure it.
    """

    condition: str
    rows: int
    accuracy: Estimate
    token_f1: Estimate
    format_errors: float
    updates: list[float]
    captions: CaptionFigures | None = None
    by_kind: dict[str, float] = field(default_factory=dict)


class Worst(NamedTuple):
    """The condition furthest below the base.

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
    """The results of all conditions.

    Attributes:
        base: accuracy of the base on the VL examples.
        base_format_errors: share of the base's answers with a format error.
        vl: results on VL examples by condition.
        audio: results on audio examples by condition.
        audio_gain: audio accuracy with the matched clip minus that under another condition, paired, by condition.
        seconds: how long it took.
        guessing: VL accuracy of guessing: each example gets the most common answer among the other clusters'
            examples of its kind. None in results of a version that did not measure it.
        base_above_guessing: the base's VL accuracy minus that, paired; None likewise.
        text: results on text-only questions by condition; empty without such examples.
        base_text: accuracy of the base on them; None without.
        base_text_format_errors: share of its answers with a format error; None without.
        text_guessing: as ``guessing``, for text-only questions.
        base_text_above_guessing: as ``base_above_guessing``.
        documents: results on documents by condition; empty without.
        base_bits_per_byte: bits per byte of the base on them; None without.
        audio_metric: name of the metric behind ``accuracy`` in ``audio``.
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
    def worst_difference(self) -> Worst | None:
        """The retention condition furthest below the base, over VL and text-only questions; None without any."""
        found = [
            Worst(kind, name, result.difference)
            for kind, results in (("VL", self.vl), ("text", self.text))
            for name, result in keep_retention(results).items()
        ]
        return min(found, key=lambda worst: worst.difference.mean, default=None)

    def passed_although_damaged(self) -> list[str]:
        """What a positive control should have failed: conditions without a loss, and hearing that still helps.

        Documents must take significantly more bits per byte. A control without a single retention condition has shown
        nothing, and has not failed either.
        """
        parts = (self.vl, self.text, self.documents)
        found = [] if any(map(keep_retention, parts)) else ["nothing was measured with audio attached"]
        found += [
            f"{kind} {name}"
            for kind, results in (("VL", self.vl), ("text", self.text))
            for name, result in keep_retention(results).items()
            if result.non_inferiority.established or result.difference.high >= 0.0
        ]
        found += [
            f"documents {name}"
            for name, result in keep_retention(self.documents).items()
            if result.difference.low <= 0.0
        ]
        gain = self.audio_gain.get(SILENCE.name)
        found += ["audio gain"] if gain is not None and gain.low > 0.0 else []
        bypasses = [results[BYPASS.name] for results in parts if BYPASS.name in results]
        return [*found, *([] if all(b.bit_equal for b in bypasses) else ["the bypass, which is to stay the base,"])]
