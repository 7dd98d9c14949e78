"""Validity of an evaluation: whether it measures retention, hearing, or neither."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from safe_train.evaluation.conditions import DISTRACTOR, SILENCE, keep_retention, standard_names
from safe_train.evaluation.results import AnswerResult, DocumentResult, Evaluation
from safe_train.metrics.exact_match import EXACT_MATCH
from safe_train.metrics.intervals import Estimate
from safe_train.metrics.registry import find_metric
from safe_train.metrics.token_f1 import TOKEN_F1

FLOOR = 10.0
"""A base whose accuracy is significantly below this many margins has nothing to lose by a margin."""

HIGHEST_FLOOR = 0.5
"""However large the margin, a base that has this share right has something to lose."""


@dataclass(frozen=True)
class Validity:
    """What the figures of an evaluation show.

    Attributes:
        not_retention: why VL changes are not a retention measurement, in one clause; empty if they are.
        not_text_retention: the same of text-only questions and documents; also if there were no such examples.
        not_hearing: why there is no evidence that the model hears, in one clause with what to do next; empty where
            there is.
        protected_text: whether text-only answers were measured at all.
        conditions: VL conditions with audio attached and the gate open that were measured.
        unmeasured: the standard conditions that were not.
    """

    not_retention: str
    not_text_retention: str
    not_hearing: str
    protected_text: bool
    conditions: tuple[str, ...]
    unmeasured: tuple[str, ...]

    def lines(self) -> list[str]:
        """A line for each thing that the figures are no measurement of, and for each condition that was left out."""
        clauses = (
            ("VL: not a retention measurement", self.not_retention),
            ("text: not a retention measurement", self.not_text_retention),
            ("hearing: no evidence", self.not_hearing),
            ("not measured", ", ".join(self.unmeasured)),
        )
        return [f"{what}: {clause}" for what, clause in clauses if clause]


def assess_validity(evaluation: Evaluation, *, margin: float) -> Validity:
    """Judges an evaluation by a margin.

    Changes on VL examples are a retention measurement where the base has something to lose and the fusion acts:

    1. The upper limit of the base's accuracy is at least :data:`FLOOR` margins, or :data:`HIGHEST_FLOOR`.
    2. The base is significantly above the majority baseline: the lower limit of ``base_above_guessing`` is above 0;
       results of a version that did not measure it are not judged by it.
    3. The fusion has an effect under one retention condition at least.

    The same holds of text-only examples; documents have no floor, so that they alone are judged by the third. A model
    hears where its answers with the matched clip are significantly better than with silence and, if it was measured,
    than with another clip.

    Args:
        evaluation: the figures.
        margin: the largest loss that is accepted, a share; see ``evaluation.margin``.
    """
    conditions = tuple(keep_retention(evaluation.vl))
    return Validity(
        not_retention=_explain_no_effect(keep_retention(evaluation.vl).values(), "VL examples")
        or _explain_floor(evaluation.base, evaluation.base_above_guessing, evaluation.vl, margin),
        not_text_retention=_explain_no_text_retention(evaluation, margin),
        not_hearing=_explain_no_hearing(evaluation),
        protected_text=bool(evaluation.text or evaluation.documents),
        conditions=conditions,
        unmeasured=tuple(name for name in standard_names() if name not in conditions),
    )


def _explain_no_text_retention(evaluation: Evaluation, margin: float) -> str:
    if not evaluation.text and not evaluation.documents:
        return "no text-only examples were evaluated"
    results = [*keep_retention(evaluation.text).values(), *keep_retention(evaluation.documents).values()]
    if clause := _explain_no_effect(results, "text-only examples"):
        return clause
    if evaluation.base_text is None:
        return ""
    clause = _explain_floor(evaluation.base_text, evaluation.base_text_above_guessing, evaluation.text, margin)
    return (
        f"{clause}; the bits per byte of the documents are a measurement" if clause and evaluation.documents else clause
    )


def _explain_no_effect(results: Collection[AnswerResult | DocumentResult], examples: str) -> str:
    if not results:
        return f"no condition with audio attached and the gate open was measured on {examples}"
    return "" if any(r.is_measurement for r in results) else "the fusion had no effect under any condition"


def _explain_floor(
    base: Estimate, above_guessing: Estimate | None, results: Mapping[str, AnswerResult], margin: float
) -> str:
    """Why a base has nothing to lose, with what is the result instead; empty where it has."""
    floor = min(FLOOR * margin, HIGHEST_FLOOR)
    if base.high < floor:
        limits = f"at most {_percent(base.high)}; a margin of {_points(margin)} needs {_percent(floor)}"
        why = f"the base's accuracy is {_percent(base.mean)}, {limits}"
    elif above_guessing is not None and above_guessing.low <= 0.0:
        why = f"the base's accuracy is {_percent(base.mean)}, not significantly above guessing without looking"
    else:
        return ""
    kept = keep_retention(results).values()
    changed = max(result.answer_change_rate for result in kept)
    divergence = max(result.kl for result in kept)
    return f"{why}: the result is {_percent(changed)} of the answers changed and KL {divergence:.3g} nats at most"


def _explain_no_hearing(evaluation: Evaluation) -> str:
    others = {SILENCE.name: "silence", DISTRACTOR.name: "another clip"}
    judged = [name for name in others if name in evaluation.audio_gain]
    if not judged:
        return "audio examples were not answered with silence or another clip: evaluate with silence and distractor"
    failed = [name for name in judged if evaluation.audio_gain[name].low <= 0.0]
    if not failed:
        return ""
    gains = " and ".join(f"{_gain(evaluation, name)} over {others[name]}" for name in failed)
    steps = ["train longer, or with a larger learning rate", "check the clips with: safe data check"]
    if evaluation.audio_metric == EXACT_MATCH.name:
        steps.append(f"score captions in free words with evaluation.audio_metric={TOKEN_F1.name}")
    return f"with the matched clip answers gain {gains}, not significantly above 0; {'; '.join(steps)}"


def _gain(evaluation: Evaluation, name: str) -> str:
    metric, gain = find_metric(evaluation.audio_metric), evaluation.audio_gain[name]
    mean, low, high = (f"{metric.scale * value:+.{metric.digits}f}" for value in (gain.mean, gain.low, gain.high))
    return f"{mean} [{low}, {high}]{f' {metric.unit_of_change}' if metric.is_share else f' {metric.label}'}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(share: float) -> str:
    return f"{100 * share:g} points"
