"""The charts of the report, each from the figures of the variants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

from markupsafe import Markup

from safe_train.evaluation.conditions import BYPASS, CONDITIONS, DISTRACTOR, MATCHED
from safe_train.report.charts.panel import APART, Look, Panel, Point
from safe_train.report.charts.scales import Scale, linear, logarithmic, points, shares
from safe_train.report.curves import CurvePoint, curve
from safe_train.report.grouping import VariantRuns
from safe_train.report.seeds import Interval
from safe_train.report.variants import AnswerCell, AudioCell, VariantFigures
from safe_train.retention import MECHANISMS

Looks = Mapping[str, Look]
"""By the name of the variant."""


_HALF_PAGE = (400, 240)
_NEAR = 10.0  # points of audio gain below the best
_LEAST_SPAN = 5.0  # points of audio gain: smaller differences are not blown up to the width of the chart


@dataclass(frozen=True)
class TrainingMetric:
    """A metric of the training with its chart.

    Attributes:
        key: in ``metrics.jsonl``.
        title: of the chart.
        scale: makes its axis from all values.
    """

    key: str
    title: str
    scale: Callable[[Sequence[float]], Scale]


def _share_scale(_values: Sequence[float]) -> Scale:
    return shares()


def training_metrics() -> list[TrainingMetric]:
    """The trainer's own metrics and those of every retention mechanism."""
    of_mechanisms = (
        TrainingMetric(metric.key, metric.title, _share_scale if metric.is_ratio else logarithmic)
        for mechanism in MECHANISMS.values()
        for metric in mechanism.shown_metrics
    )
    return [
        TrainingMetric("audio_loss", "audio loss, nats", logarithmic),
        TrainingMetric("retention_loss", "retention loss, weighted", logarithmic),
        *of_mechanisms,
        TrainingMetric("gradient_norm", "gradient norm", logarithmic),
    ]


def pareto(variants: Sequence[VariantFigures], looks: Looks, margin: float) -> list[Markup]:
    """Audio gain across, change in accuracy up, under the worst condition on VL examples and text-only questions.

    Variants that are no retention measurement are not drawn: a base that knows nothing loses nothing. A second chart
    shows those with nearly the best gain, where others press them together. None if no variant has both.
    """
    shown = _find_measured(variants)
    if not shown:
        return []
    best = max(gain.mean for _, gain, _ in shown)
    near = [row for row in shown if 100 * (best - row[1].mean) <= _NEAR]
    return [_pareto_chart(rows, looks, margin) for rows in ([shown] if len(near) == len(shown) else [shown, near])]


_Measured = Sequence[tuple[VariantFigures, Interval, Interval]]
"""Variants with their audio gain and their worst change."""


def _find_measured(variants: Sequence[VariantFigures]) -> _Measured:
    return [
        (variant, variant.gain, variant.worst.change)
        for variant in variants
        if variant.gain is not None and variant.worst is not None
    ]


def _find_front(shown: _Measured) -> list[tuple[float, float]]:
    """The front in points; empty where a single variant is on it, through which there is no line to draw."""
    found = pareto_front(
        [(100 * gain.mean, 100 * change.mean) for variant, gain, change in shown if not variant.damage]
    )
    return found if len(found) > 1 else []


def has_front(variants: Sequence[VariantFigures]) -> bool:
    """Whether :func:`pareto` draws the line that joins the variants no other beats in both."""
    return bool(_find_front(_find_measured(variants)))


def _pareto_chart(shown: _Measured, looks: Looks, margin: float) -> Markup:
    across = [limit for _, gain, _ in shown for limit in _limits(gain)]
    up = [limit for _, _, change in shown for limit in _limits(change)]
    panel = Panel(
        x=linear([max(-100.0, min(across) - _LEAST_SPAN / 2), min(100.0, max(across) + _LEAST_SPAN / 2)]),
        y=points(up, 100 * margin),
        title="change, worst condition (points)",
        x_label="audio gain: matched clip minus silence (points)",
        width=480,
        height=360,
    )
    panel.rule(0.0, "zero", "the base")
    panel.rule(-100 * margin, "margin", f"margin \u2212{100 * margin:g}")
    if front := _find_front(shown):
        panel.steps(_staircase(front, panel), "front")
    for (variant, gain, change), shift in zip(
        shown, panel.shifts([100 * gain.mean for _, gain, _ in shown]), strict=True
    ):
        under = f"{variant.worst_part}, {variant.worst_name}"
        label = f"{variant.name}: gain {100 * gain.mean:+.1f}, worst change {100 * change.mean:+.1f} points ({under})"
        point = Point(100 * gain.mean, 100 * change.mean, _limits(gain), _limits(change), label)
        panel.point(point, looks[variant.name], shift=shift)
    return panel.svg("Up and to the right is better")


def pareto_front(pairs: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those of which no other is at least as good in both numbers and better in one, by the first number."""

    def dominated(pair: tuple[float, float]) -> bool:
        return any(other != pair and other[0] >= pair[0] and other[1] >= pair[1] for other in pairs)

    return sorted({pair for pair in pairs if not dominated(pair)})


def _staircase(front: Sequence[tuple[float, float]], panel: Panel) -> list[tuple[float, float]]:
    corners = [(panel.x.low, front[0][1])]
    for (x, y), (_, lower) in zip(front, [*front[1:], (0.0, panel.y.low)], strict=True):
        corners += [(x, y), (x, lower)]
    return corners


def gate_curves(variants: Sequence[VariantFigures], looks: Looks, margin: float) -> list[Markup]:
    """Changes and audio accuracy over the gate; the bypass has it shut, distractor and matched clips fully open."""
    swept = {condition.name: condition.gate for condition in CONDITIONS.values() if condition.sweep == "gate"}
    change = _by_value({BYPASS.name: 0.0, DISTRACTOR.name: 1.0} | swept)
    axis = Scale(0.0, 1.0, tuple((gate, f"{gate:g}") for gate in change))
    return _sweep(variants, looks, margin, change, _by_value({MATCHED.name: 1.0} | swept), axis, "gate", set(swept))


def loudness_curves(variants: Sequence[VariantFigures], looks: Looks, margin: float) -> list[Markup]:
    """Changes and audio accuracy over the clip's gain; 0 dB is the clip as it is."""
    swept = {condition.name: condition.gain_db for condition in CONDITIONS.values() if condition.sweep == "gain"}
    change = _by_value({DISTRACTOR.name: 0.0} | swept)
    played = [
        gain for gain, name in change.items() if any(name in variant.vl or name in variant.text for variant in variants)
    ]
    if len(played) < 2:
        return []
    ticks = tuple((gain, f"{gain:+g}".replace("-", "\u2212") if gain else "0") for gain in played)
    axis = Scale(min(played), max(played), ticks)
    return _sweep(
        variants, looks, margin, change, _by_value({MATCHED.name: 0.0} | swept), axis, "gain (dB)", set(swept)
    )


def _by_value(places: Mapping[str, float]) -> dict[float, str]:
    """Conditions by their place on the axis, from the lowest."""
    return dict(sorted((value, name) for name, value in places.items()))


def _sweep(
    variants: Sequence[VariantFigures],
    looks: Looks,
    margin: float,
    change: Mapping[float, str],
    heard: Mapping[float, str],
    axis: Scale,
    x_label: str,
    swept: Set[str],
) -> list[Markup]:
    """A chart for each kind of examples over one axis; none where no variant has a condition between the ends on them.

    Variants whose figures are no measurement of a kind's retention are not drawn there.
    """
    lines_of = {
        "VL change": {
            variant.name: _along(change, variant.vl, lambda cell: cell.change)
            for variant in variants
            if not variant.vl.keys().isdisjoint(swept) and not variant.standing.not_retention
        },
        "text-only change": {
            variant.name: _along(change, variant.text, lambda cell: cell.change)
            for variant in variants
            if not variant.text.keys().isdisjoint(swept) and not variant.standing.not_text_retention
        },
    }
    charts: list[tuple[Panel, Mapping[str, list[Point]]]] = []
    for kind, lines in lines_of.items():
        lowest = [limit for line in lines.values() for point in line for limit in point.y_limits or ()]
        scale = points(lowest or [0.0], 100 * margin)
        panel = _sweep_panel(axis, scale, f"{kind} with an unrelated clip (points)", x_label)
        panel.rule(0.0, "zero")
        panel.rule(-100 * margin, "margin")
        charts.append((panel, lines))
    hearing = {
        variant.name: _along(heard, variant.audio, lambda cell: cell.accuracy)
        for variant in variants
        if not variant.audio.keys().isdisjoint(swept)
    }
    percent = Scale(0.0, 100.0, tuple((value, f"{value:.0f} %") for value in (0.0, 25.0, 50.0, 75.0, 100.0)))
    metrics = " or ".join(dict.fromkeys(variant.audio_metric for variant in variants))
    charts.append((_sweep_panel(axis, percent, f"{metrics} with the row's own clip", x_label), hearing))
    for panel, lines in charts:
        for place, (name, line) in enumerate(lines.items()):
            panel.line(line, looks[name], shift=APART * (place - (len(lines) - 1) / 2))
    return [panel.svg(f"One line per variant, over the {x_label}") for panel, lines in charts if lines]


def _sweep_panel(x: Scale, y: Scale, title: str, x_label: str) -> Panel:
    return Panel(x=x, y=y, title=title, x_label=x_label, width=_HALF_PAGE[0], height=_HALF_PAGE[1])


def _along(
    sweep: Mapping[float, str],
    cells: Mapping[str, AnswerCell] | Mapping[str, AudioCell],
    value: Callable[..., Interval],
) -> list[Point]:
    found = [(place, value(cells[name])) for place, name in sweep.items() if name in cells]
    return [Point(place, 100 * interval.mean, y_limits=_limits(interval)) for place, interval in found]


def training_curves(groups: Sequence[VariantRuns], looks: Looks) -> list[Markup]:
    """One chart a metric; mean over seeds, the band from the smallest seed to the largest."""
    charts: list[Markup] = []
    trained = [group for group in groups if not group.damage]
    for metric in training_metrics():
        lines = {group.name: curve(group, metric.key) for group in trained}
        shown = [point for line in lines.values() for point in line]
        if any(point.high != 0.0 or point.low != 0.0 for point in shown):
            charts.append(_training_chart(metric, lines, shown, looks))
    return charts


def _training_chart(
    metric: TrainingMetric, lines: Mapping[str, Sequence[CurvePoint]], shown: Sequence[CurvePoint], looks: Looks
) -> Markup:
    panel = Panel(
        x=linear([0.0, *(point.step for point in shown)], most_ticks=5),
        y=metric.scale([value for point in shown for value in (point.low, point.high)]),
        title=metric.title,
        x_label="step",
        width=320,
        height=200,
    )
    drawn = {
        name: [Point(point.step, point.mean, y_limits=(point.low, point.high)) for point in line]
        for name, line in lines.items()
        if any(point.high != 0.0 or point.low != 0.0 for point in line)
    }
    for name, line in drawn.items():
        panel.band(line, looks[name])
    for name, line in drawn.items():
        panel.line([Point(point.x, point.y) for point in line], looks[name], markers=False)
    return panel.svg(f"{len(drawn)} variants over {shown[-1].step:.0f} steps")


def update_norms(
    variants: Sequence[VariantFigures], looks: Looks, conditions: Sequence[str], layers: Sequence[str]
) -> list[Markup]:
    """One chart per fused layer: size of its update to that of the hidden states, by condition, the first on top."""
    charts: list[Markup] = []
    upwards = list(reversed(conditions))
    for index, layer in enumerate(layers):
        values = {
            variant.name: [
                (place, variant.vl[name].updates[index])
                for place, name in enumerate(upwards)
                if name in variant.vl and len(variant.vl[name].updates) > index
            ]
            for variant in variants
        }
        sizes = [size for line in values.values() for _, size in line]
        if sizes:
            charts.append(_layer_chart(layer, values, sizes, upwards, looks))
    return charts


def _layer_chart(
    layer: str,
    values: Mapping[str, Sequence[tuple[int, float]]],
    sizes: Sequence[float],
    conditions: Sequence[str],
    looks: Looks,
) -> Markup:
    axis = Scale(-0.5, len(conditions) - 0.5, tuple((place, name) for place, name in enumerate(conditions)))
    panel = Panel(
        x=linear([0.0, *sizes]), y=axis, title=layer, x_label="|update| / |hidden|",
        width=400, height=74 + 22 * len(conditions), left=104,
    )  # fmt: skip
    for name, line in values.items():
        for place, size in line:
            label = f"{name}, {conditions[place]}: {size:.3f}"
            panel.point(Point(size, place, label=label), looks[name])
    return panel.svg("One marker per variant, by condition")


def _limits(interval: Interval) -> tuple[float, float]:
    return 100 * interval.low, 100 * interval.high
