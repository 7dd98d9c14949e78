"""How numbers are written on the page."""

from __future__ import annotations

from safe_train.metrics.metric import Metric
from safe_train.report.seeds import Interval

_MINUS = "\u2212"


def points(share: float, digits: int = 1) -> str:
    """A change in points with its sign; one that rounds to zero has none."""
    text = f"{100 * share:+.{digits}f}"
    return text[1:] if float(text) == 0.0 else text.replace("-", _MINUS)


def percent(share: float, digits: int = 1) -> str:
    """A share in percent."""
    text = f"{100 * share:.{digits}f}"
    return f"{text.removeprefix('-') if float(text) == 0.0 else text.replace('-', _MINUS)}\u00a0%"


def points_limits(interval: Interval) -> str:
    """The limits of a change in points, kept within what a change can be: Student's interval knows no bounds."""
    return f"{points(max(-1.0, interval.low))} to {points(min(1.0, interval.high))}"


def percent_limits(interval: Interval) -> str:
    """The limits of a share in percent, kept within what a share can be."""
    low, high = max(0.0, interval.low), min(1.0, interval.high)
    return f"{100 * low:.1f} to {100 * high:.1f}"


def score(value: float, metric: Metric) -> str:
    """The score of audio examples, of which results hold a share of the highest, in the metric's own range."""
    return percent(value) if metric.is_share else f"{metric.scale * value:.{metric.digits}f}"


def score_limits(interval: Interval, metric: Metric) -> str:
    """Its limits, kept within what a score can be."""
    low, high = (metric.scale * min(1.0, max(0.0, limit)) for limit in (interval.low, interval.high))
    return f"{low:.{metric.digits}f} to {high:.{metric.digits}f}"


def score_change(value: float, metric: Metric) -> str:
    """A gain in it."""
    return points(metric.scale * value / 100, metric.digits)


def score_change_limits(interval: Interval, metric: Metric) -> str:
    """The limits of a gain in it, kept within what a gain can be."""
    return f"{score_change(max(-1.0, interval.low), metric)} to {score_change(min(1.0, interval.high), metric)}"


def bits(value: float) -> str:
    """A change that is no share, such as bits per byte, with its sign; one that rounds to zero has none."""
    text = f"{value:+.3f}"
    return text[1:] if float(text) == 0.0 else text.replace("-", _MINUS)


def bits_limits(interval: Interval) -> str:
    """Its limits."""
    return f"{bits(interval.low)} to {bits(interval.high)}"


def p_value(value: float) -> str:
    """Two digits, three below a tenth."""
    if value < 0.001:
        return "<\u00a00.001"
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def count(value: float) -> str:
    """A whole number with commas."""
    return f"{value:,.0f}"


def counts(values: list[int]) -> str:
    """One number, or the smallest to the largest."""
    low, high = min(values), max(values)
    return count(low) if low == high else f"{count(low)} to {count(high)}"


def divergence(value: float) -> str:
    """A KL divergence in nats."""
    return f"{value:.4f}".replace("-", _MINUS)


def seconds(value: float) -> str:
    """A duration in the two units that say most."""
    if value < 60:
        return f"{value:.0f}\u00a0s" if value >= 10 else f"{value:.1f}\u00a0s"
    whole = round(value)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}\u00a0h {minutes}\u00a0min" if hours else f"{minutes}\u00a0min {whole % 60}\u00a0s"
