"""The page: everything that the template shows, and the template filled in."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from safe_train.evaluation.conditions import BYPASS, DISTRACTOR, MATCHED, Condition, find_condition, sort_names
from safe_train.evaluation.predictions import Kind
from safe_train.metrics.registry import caption_metrics
from safe_train.report import wording
from safe_train.report.charts.figures import (
    gate_curves,
    has_front,
    loudness_curves,
    pareto,
    training_curves,
    update_norms,
)
from safe_train.report.charts.panel import Look, swatch
from safe_train.report.document import Report
from safe_train.report.grouping import VariantRuns
from safe_train.report.summary import TEXT_UNMEASURED
from safe_train.report.variants import AnswerCell, AudioCell
from safe_train.report.verdict import headline


def render(report: Report, groups: Sequence[VariantRuns], figures_name: str) -> str:
    """The page as HTML. Everything from runs is escaped; scripts other than the page's own do not run.

    Args:
        report: the figures.
        groups: the runs behind them, for the training curves.
        figures_name: name of the JSON file, for the last line.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "points": wording.points,
        "percent": wording.percent,
        "score": wording.score,
        "score_limits": wording.score_limits,
        "score_change": wording.score_change,
        "score_change_limits": wording.score_change_limits,
        "bits": wording.bits,
        "bits_limits": wording.bits_limits,
        "points_limits": wording.points_limits,
        "percent_limits": wording.percent_limits,
        "p_value": wording.p_value,
        "count": wording.count,
        "counts": wording.counts,
        "divergence": wording.divergence,
        "seconds": wording.seconds,
    }
    script = _resource("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    own = {
        "style": Markup(_resource("style.css")),
        "script": Markup(script),
        "script_sha256": digest,
        "figures_name": figures_name,
    }
    return environment.from_string(_resource("page.html.jinja")).render(_context(report, groups) | own)


def _context(report: Report, groups: Sequence[VariantRuns]) -> dict[str, Any]:
    variants = report.arms
    looks = {variant.name: Look(number, control=variant.damage > 0) for number, variant in enumerate(variants)}
    vl = _find_conditions([name for variant in variants for name in variant.vl])
    text = _find_conditions([name for variant in variants for name in variant.text])
    documents = _find_conditions([name for variant in variants for name in variant.documents])
    audio = _find_conditions([name for variant in variants for name in variant.audio])
    return {
        "report": report,
        "headline": headline(variants),
        "swatches": {name: swatch(look) for name, look in looks.items()},
        "overview": {"VL": _columns(vl), "text": _columns(text), "documents": _columns(documents)},
        "bypass": BYPASS.name,
        "vl_conditions": _describe(vl, "vl"),
        "text_conditions": _describe(text, "text"),
        "text_unmeasured": TEXT_UNMEASURED,
        "without_text": [variant.name for variant in variants if not variant.standing.protected_text],
        "audio_metrics": list(dict.fromkeys(variant.audio_metric for variant in variants)),
        "gain_unit": "points" if all(variant.metric.is_share for variant in variants) else "",
        "not_drawn": [variant.name for variant in variants if variant.standing.not_retention],
        "audio_conditions": _describe(audio, "audio"),
        "types": {
            "VL": _types([variant.vl.get(DISTRACTOR.name) for variant in variants]),
            "text": _types([variant.text.get(DISTRACTOR.name) for variant in variants]),
            "audio": _types([variant.audio.get(MATCHED.name) for variant in variants]),
        },
        "captions": {
            name: words for variant in variants for name, words in variant.audio[MATCHED.name].tokenizers.items()
        },
        "caption_ranges": {metric.label: f"{metric.highest:g}" for metric in caption_metrics() if not metric.is_share},
        "has_front": has_front(variants),
        "pareto": pareto(variants, looks, report.margin),
        "gate": gate_curves(variants, looks, report.margin),
        "loudness": loudness_curves(variants, looks, report.margin),
        "training": training_curves(groups, looks),
        "updates": update_norms(variants, looks, [c.name for c in vl if c.attach], _layer_names(groups)),
        "fastest": min(variant.cost.step_seconds for variant in variants),
    }


def _find_conditions(names: Sequence[str]) -> list[Condition]:
    return [find_condition(name) for name in sort_names(names)]


def _columns(conditions: Sequence[Condition]) -> list[str]:
    """Names of the columns of the first table; a narrow screen shows the first ones."""
    placed = [(condition.column, condition.name) for condition in conditions if condition.column is not None]
    return [name for _, name in sorted(placed, key=lambda pair: pair[0])]


def _describe(conditions: Sequence[Condition], kind: Kind) -> dict[str, str]:
    """What plays, by condition; empty for a condition that is no longer registered."""
    return {condition.name: condition.describe(kind) for condition in conditions}


def _types(cells: Sequence[AnswerCell | AudioCell | None]) -> list[str]:
    """Types of questions that a cell has; results of an earlier version have none on audio."""
    return sorted({kind for cell in cells if cell is not None for kind in cell.by_kind})


def _layer_names(groups: Sequence[VariantRuns]) -> list[str]:
    """Decoder layers by number where all variants fuse the same ones, else by position."""
    layers = [group.members[0].run.described["effective"]["adapter"]["fusion_layers"] for group in groups]
    if all(other == layers[0] for other in layers):
        return [f"decoder layer {layer}" for layer in layers[0]]
    return [f"fused layer {index + 1}" for index in range(max(len(other) for other in layers))]


def _resource(name: str) -> str:
    return files("safe_train.report").joinpath(name).read_text(encoding="utf-8")
