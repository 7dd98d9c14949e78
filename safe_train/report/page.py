"""The page: everything that the template shows, and the template filled in."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from safe_train.evaluation.conditions import AUDIO_CONDITIONS, VL_CONDITIONS
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
from safe_train.report.examples import describe_condition
from safe_train.report.grouping import Group
from safe_train.report.summary import TEXT_UNMEASURED
from safe_train.report.verdict import headline

_OVERVIEW = ("bypass", "silence", "distractor", "contradictory", "noise", "loud")
"""Columns of the first table, with the worst of several clips; the sweeps have charts."""


def render(report: Report, groups: Sequence[Group], figures_name: str) -> str:
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


def _context(report: Report, groups: Sequence[Group]) -> dict[str, Any]:
    arms = report.arms
    looks = {arm.name: Look(number, control=arm.damage > 0) for number, arm in enumerate(arms)}
    vl_names = _in_order(list(VL_CONDITIONS), [name for arm in arms for name in arm.vl])
    text_names = _in_order(list(VL_CONDITIONS), [name for arm in arms for name in arm.text])
    document_names = _in_order(list(VL_CONDITIONS), [name for arm in arms for name in arm.documents])
    heard = [name for name in vl_names if name != "bypass"]
    overview = {
        part: sorted((name for name in names if name in _OVERVIEW or _is_worst_of(name)), key=_leads)
        for part, names in (("VL", vl_names), ("text", text_names), ("documents", document_names))
    }
    return {
        "report": report,
        "headline": headline(arms),
        "swatches": {name: swatch(look) for name, look in looks.items()},
        "overview": overview,
        "vl_conditions": {name: describe_condition(name, "vl") for name in vl_names},
        "text_conditions": {name: describe_condition(name, "text") for name in text_names},
        "text_unmeasured": TEXT_UNMEASURED,
        "without_text": [arm.name for arm in arms if not arm.standing.protected_text],
        "audio_metrics": list(dict.fromkeys(arm.audio_metric for arm in arms)),
        "gain_unit": "points" if all(arm.audio_metric != wording.CIDER_D for arm in arms) else "",
        "not_drawn": [arm.name for arm in arms if arm.standing.not_retention],
        "audio_conditions": {
            name: describe_condition(name, "audio")
            for name in _in_order(list(AUDIO_CONDITIONS), [name for arm in arms for name in arm.audio])
        },
        "captions": {name: words for arm in arms for name, words in arm.audio["matched"].tokenizers.items()},
        "has_front": has_front(arms),
        "pareto": pareto(arms, looks, report.margin),
        "gate": gate_curves(arms, looks, report.margin),
        "loudness": loudness_curves(arms, looks, report.margin),
        "training": training_curves(groups, looks),
        "updates": update_norms(arms, looks, heard, _layer_names(groups)),
        "fastest": min(arm.cost.step_seconds for arm in arms),
    }


def _is_worst_of(name: str) -> bool:
    return name.startswith("worst_of_")


def _leads(name: str) -> int:
    """Sorts the bypass and the worst of several clips to the front, where a narrow screen shows them."""
    return 0 if name == "bypass" else 1 if _is_worst_of(name) else 2


def _in_order(registered: Sequence[str], names: Sequence[str]) -> list[str]:
    """Each name once, those of the registry first and in its order."""
    present = list(dict.fromkeys(names))
    return [name for name in registered if name in present] + [name for name in present if name not in registered]


def _layer_names(groups: Sequence[Group]) -> list[str]:
    """Decoder layers by number where all arms fuse the same ones, else by position."""
    layers = [group.members[0].run.described["effective"]["adapter"]["fusion_layers"] for group in groups]
    if all(other == layers[0] for other in layers):
        return [f"decoder layer {layer}" for layer in layers[0]]
    return [f"fused layer {index + 1}" for index in range(max(len(other) for other in layers))]


def _resource(name: str) -> str:
    return files("safe_train.report").joinpath(name).read_text(encoding="utf-8")
