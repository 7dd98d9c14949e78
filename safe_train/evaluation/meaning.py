"""What an evaluation can be taken for: a measurement of retention, of hearing, or of neither."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from safe_train.evaluation.conditions import WORST_OF
from safe_train.evaluation.results import AnswerResult, DocumentResult, Evaluation, is_retention_condition
from safe_train.metrics.intervals import Estimate

FLOOR = 10.0
"""A base whose accuracy is surely below this many margins has nothing that could be lost by a margin."""

HIGHEST_FLOOR = 0.5
"""However large the margin, a base that has this share right has something to lose."""

STANDARD = ("silence", "distractor", "contradictory", "loud", "noise", f"worst_of_{WORST_OF}")
"""The conditions that "whatever audio plays" stands for; the others are sweeps."""


@dataclass(frozen=True)
class Meaning:
    """What the figures mean.

    Attributes:
        not_retention: why VL changes are no retention measurement, in one clause; empty where they are one.
        not_text_retention: the same of text-only questions and documents; also where there were no such rows.
        not_hearing: why nothing shows that the model hears, in one clause with what to do next; empty where something
            does.
        protected_text: whether text-only answers were measured at all.
        conditions: VL conditions with audio attached and the gate open that were measured.
        unmeasured: those of the standard six that were not.
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
            ("hearing: nothing shows it", self.not_hearing),
            ("not measured", ", ".join(self.unmeasured)),
        )
        return [f"{what}: {clause}" for what, clause in clauses if clause]


def meaning(evaluation: Evaluation, *, margin: float) -> Meaning:
    """Judges an evaluation by a margin.

    VL changes are a retention measurement where the base has something to lose, and the fusion did something:

    1. The upper limit of the base's accuracy is at least :data:`FLOOR` margins, or :data:`HIGHEST_FLOOR`.
    2. The base is surely above guessing, that is, the lower limit of ``base_above_guessing`` is above 0; results of a
       version that did not measure it are not judged by it.
    3. With audio attached and the gate open, the fusion had an effect under one condition at least.

    The same holds of text-only rows; documents have no floor, so that they alone are judged by the third. A model hears
    where its answers with the matched clip are surely better than in silence and, if it was measured, than with another
    clip.

    Args:
        evaluation: the figures.
        margin: the largest loss that is accepted, a share; see ``evaluation.margin``.
    """
    conditions = tuple(name for name in evaluation.vl if is_retention_condition(name))
    return Meaning(
        not_retention=_no_effect(evaluation.vl, "VL rows")
        or _at_floor(evaluation.base, evaluation.base_above_guessing, evaluation.vl, margin),
        not_text_retention=_not_text_retention(evaluation, margin),
        not_hearing=_not_hearing(evaluation),
        protected_text=bool(evaluation.text or evaluation.documents),
        conditions=conditions,
        unmeasured=tuple(name for name in STANDARD if name not in conditions),
    )


def _not_text_retention(evaluation: Evaluation, margin: float) -> str:
    if not evaluation.text and not evaluation.documents:
        return "no text-only rows were evaluated"
    merged: dict[str, AnswerResult | DocumentResult] = {
        f"{kind} {name}": result
        for kind, results in (("text", evaluation.text), ("documents", evaluation.documents))
        for name, result in results.items()
        if is_retention_condition(name)
    }
    if clause := _no_effect(merged, "text-only rows"):
        return clause
    if evaluation.base_text is None:
        return ""
    clause = _at_floor(evaluation.base_text, evaluation.base_text_above_guessing, evaluation.text, margin)
    return (
        f"{clause}; the bits per byte of the documents are a measurement" if clause and evaluation.documents else clause
    )


def _no_effect(results: Mapping[str, AnswerResult | DocumentResult], rows: str) -> str:
    heard = [result for name, result in results.items() if is_retention_condition(name)]
    if not heard:
        return f"no condition with audio attached and the gate open was measured on {rows}"
    return "" if any(r.is_measurement for r in heard) else "the fusion had no effect under any condition"


def _at_floor(
    base: Estimate, above_guessing: Estimate | None, results: Mapping[str, AnswerResult], margin: float
) -> str:
    """Why a base has nothing to lose, with what is the result instead; empty where it has."""
    floor = min(FLOOR * margin, HIGHEST_FLOOR)
    if base.high < floor:
        limits = f"at most {_percent(base.high)}, where {_percent(floor)} are needed for a margin of {_points(margin)}"
        why = f"the base has {_percent(base.mean)} right, {limits}"
    elif above_guessing is not None and above_guessing.low <= 0.0:
        why = f"the base has {_percent(base.mean)} right, which is not surely more than guessing without looking"
    else:
        return ""
    heard = [result for name, result in results.items() if is_retention_condition(name)]
    changed = max(result.answer_change_rate for result in heard)
    divergence = max(result.kl for result in heard)
    return f"{why}: the result is {_percent(changed)} of the answers changed and KL {divergence:.3g} nats at most"


def _not_hearing(evaluation: Evaluation) -> str:
    others = {"silence": "silence", "distractor": "another clip"}
    judged = [name for name in others if name in evaluation.audio_gain]
    if not judged:
        return "audio rows were not answered in silence or with another clip: evaluate with silence and distractor"
    failed = [name for name in judged if evaluation.audio_gain[name].low <= 0.0]
    if not failed:
        return ""
    gains = " and ".join(
        f"{100 * gain.mean:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}] points over {others[name]}"
        for name in failed
        for gain in [evaluation.audio_gain[name]]
    )
    steps = ["train more steps, or with a larger learning rate", "check the clips with: safe data check"]
    if evaluation.audio_metric == "exact_match":
        steps.append("score captions in free words with evaluation.audio_metric=token_f1")
    return f"with the matched clip answers gain {gains}, which is not surely above 0; {'; '.join(steps)}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(share: float) -> str:
    return f"{100 * share:g} points"
