"""Axes: where a value stands between the ends of its axis, and which values are labelled."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """An axis.

    Attributes:
        low: value at its start.
        high: value at its end.
        ticks: labelled values with their labels.
        warp: maps values to what is drawn to scale; increasing.
    """

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    warp: Callable[[float], float] = float

    def share(self, value: float) -> float:
        """0 at the start, 1 at the end; values beyond them stand there."""
        low, high, place = (self.warp(number) for number in (self.low, self.high, min(max(value, self.low), self.high)))
        return (place - low) / (high - low)


def linear(values: Sequence[float], *, most_ticks: int = 5) -> Scale:
    """From below the smallest to above the largest value, at round numbers."""
    low, high = min(values), max(values)
    if low == high:
        low, high = low - (abs(low) or 1.0) / 2.0, high + (abs(high) or 1.0) / 2.0
    step = _round_step((high - low) / (most_ticks - 1))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    ticks = tuple((number * step, _number(number * step, digits)) for number in range(first, last + 1))
    return Scale(first * step, last * step, ticks)


def shares() -> Scale:
    """0 to 1 as percent."""
    return Scale(0.0, 1.0, tuple((value, f"{100 * value:.0f} %") for value in (0.0, 0.25, 0.5, 0.75, 1.0)))


def logarithmic(values: Sequence[float], *, most_ticks: int = 5) -> Scale:
    """Whole powers of ten around the positive ones of ``values``."""
    positive = [value for value in values if value > 0.0] or [1.0]
    first, last = math.floor(math.log10(min(positive)) + 1e-9), math.ceil(math.log10(max(positive)) - 1e-9)
    last = max(last, first + 1)
    every = math.ceil((last - first) / (most_ticks - 1))
    ticks = tuple((10.0**power, _power(power)) for power in range(first, last + 1, every))
    return Scale(10.0**first, 10.0**last, ticks, math.log10)


def points(values: Sequence[float], margin: float) -> Scale:
    """Changes in points: to scale around 0, by powers beyond the margin, so that 0.1 and 60 can both be read.

    The warp is ``asinh(value / margin)``, linear below the margin and logarithmic above.
    """
    low, high = min(*values, -margin), max(*values, margin)
    candidates = [0.0, margin]
    power = 10.0 ** math.floor(math.log10(margin))
    while power <= max(-low, high) * 10:
        candidates += [factor * power for factor in (1, 2, 5) if factor * power >= 2 * margin]
        power *= 10
    reach = sorted({round(sign * value, 9) for value in candidates for sign in (-1, 1)})
    start = max((value for value in reach if value <= low), default=reach[0])
    end = min((value for value in reach if value >= high), default=reach[-1])

    def warp(value: float) -> float:
        return math.asinh(value / margin)

    inside = [value for value in reach if start <= value <= end]
    span = warp(end) - warp(start)
    kept: list[float] = []
    for value in sorted(inside, key=lambda value: (value not in (0.0, start, end), abs(value))):
        if all(abs(warp(value) - warp(other)) > 0.085 * span for other in kept):
            kept.append(value)
    return Scale(start, end, tuple((value, _sign(value)) for value in sorted(kept)), warp)


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * power >= rough * (1 - 1e-9))


def _number(value: float, digits: int) -> str:
    extra = digits + (1 if abs(value * 10**digits - round(value * 10**digits)) > 1e-6 else 0)
    return f"{value:,.{extra}f}".replace("-", "\u2212") if abs(value) > 1e-12 else "0"


def _sign(value: float) -> str:
    return f"{value:+g}".replace("-", "\u2212") if value else "0"


_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _power(power: int) -> str:
    if -3 <= power <= 3:
        return f"{10.0**power:g}"
    return f"10{str(power).translate(_SUPERSCRIPTS)}"
