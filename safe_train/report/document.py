"""The report as data: what ``report.json`` holds and the page shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from safe_train.report.examples import AnsweredExample, choose_examples
from safe_train.report.grouping import VariantRuns
from safe_train.report.run_card import RunCard, Settings, compare_settings, run_cards
from safe_train.report.runs import LeftOut
from safe_train.report.variants import VariantFigures, build_variants
from safe_train.report.verdict import notes, passed_controls, verdict, warnings


@dataclass(frozen=True)
class Report:
    """Every figure of a report.

    Attributes:
        verdict: one sentence.
        margin: the loss that is accepted, declared before the measurement; the largest if runs differ.
        warnings: what puts figures in doubt.
        notes: what is easily overlooked.
        arms: variants over their seeds, positive controls last.
        controls: what each positive control did not fail, by its name; empty lists are what one wants.
        examples: rows to look at.
        runs: what the figures depend on.
        settings: of the variants.
        left_out: runs that are not in the figures.
    """

    verdict: str
    margin: float
    warnings: list[str]
    notes: list[str]
    arms: list[VariantFigures]
    controls: dict[str, list[str]]
    examples: list[AnsweredExample]
    runs: list[RunCard]
    settings: Settings
    left_out: list[LeftOut]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the contents of images and clips."""
        plain = asdict(self)
        for example in plain["examples"]:
            example["clip"].pop("uri")
            if example["picture"]:
                example["picture"].pop("uri")
        return plain


def build_report(groups: Sequence[VariantRuns], left_out: Sequence[LeftOut]) -> Report:
    """All figures.

    Raises:
        InputError: the rows of an evaluation cannot be read.
    """
    variants = build_variants(groups)
    cards = run_cards(groups)
    return Report(
        verdict=verdict(variants),
        margin=max(card.margin for card in cards),
        warnings=warnings(variants, groups),
        notes=notes(variants),
        arms=variants,
        controls={group.name: passed_controls(group) for group in groups if group.damage},
        examples=choose_examples(groups),
        runs=cards,
        settings=compare_settings(groups),
        left_out=list(left_out),
    )
