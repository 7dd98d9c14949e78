"""Validity of a variant's figures: each seed's evaluation is judged, and a doubt about one is the variant's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from safe_train.evaluation.conditions import standard_names
from safe_train.evaluation.validity import Validity
from safe_train.report.grouping import VariantRuns
from safe_train.report.summary import judge

Part = Literal["VL", "text"]
"""Questions that the base answers: with an image, or without one."""


@dataclass(frozen=True)
class Standing:
    """What the figures mean, over the seeds.

    Attributes:
        not_retention: why changes on VL examples are no retention measurement; empty where they are one in every seed.
        not_text_retention: the same of text-only examples; also where there were none.
        not_hearing: why nothing shows that the model hears, with what to do next; empty where something does.
        protected_text: whether text-only answers were measured in every seed.
        measured: standard conditions that every seed has on VL examples.
        measured_text: the same on text-only questions.
    """

    not_retention: str
    not_text_retention: str
    not_hearing: str
    protected_text: bool
    measured: list[str]
    measured_text: list[str]


def assess_variant(group: VariantRuns) -> Standing:
    """Judges a variant."""
    results = [member.evaluation.result for member in group.members]
    meanings = [judge(result) for result in results]
    return Standing(
        not_retention=_reason(group, meanings, "not_retention"),
        not_text_retention=_reason(group, meanings, "not_text_retention"),
        not_hearing=_reason(group, meanings, "not_hearing"),
        protected_text=all(found.protected_text for found in meanings),
        measured=[name for name in standard_names() if all(name in result.vl for result in results)],
        measured_text=[name for name in standard_names() if all(name in result.text for result in results)],
    )


def _reason(
    group: VariantRuns,
    meanings: Sequence[Validity],
    name: Literal["not_retention", "not_text_retention", "not_hearing"],
) -> str:
    """The first seed's reason, with the seed where not all say the same."""
    reasons = [getattr(found, name) for found in meanings]
    given = [(member.seed, reason) for member, reason in zip(group.members, reasons, strict=True) if reason]
    if not given:
        return ""
    seed, reason = given[0]
    return reason if len(set(reasons)) == 1 else f"{reason} (seed {seed})"
