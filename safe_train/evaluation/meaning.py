"""What an evaluation can be taken for: a measurement of retention, of hearing, or of neither."""

from __future__ import annotations

from dataclasses import dataclass

from safe_train.evaluation.results import Evaluation

FLOOR = 10.0
"""A base whose accuracy is surely below this many margins has nothing that could be lost by a margin."""


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


def meaning(evaluation: Evaluation, *, margin: float) -> Meaning:
    """Judges an evaluation by a margin."""
    raise NotImplementedError
