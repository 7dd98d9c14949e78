"""Training curves of a variant: means over seeds at the steps that all of them logged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from safe_train.report.grouping import VariantRuns

MOST_POINTS = 120
"""A longer curve is drawn by the means of consecutive logged steps."""


@dataclass(frozen=True)
class CurvePoint:
    """A step of a curve.

    Attributes:
        step: optimizer step; the mean of the steps that stand behind the point.
        mean: over seeds.
        low: smallest of the seeds.
        high: largest of the seeds.
    """

    step: float
    mean: float
    low: float
    high: float


def curve(group: VariantRuns, metric: str) -> list[CurvePoint]:
    """A metric over the steps; empty where no step has it in every seed."""
    by_seed = [_finite(member.run.curves, metric) for member in group.members]
    steps = sorted(set.intersection(*(set(values) for values in by_seed)))
    size = math.ceil(len(steps) / MOST_POINTS)
    points: list[CurvePoint] = []
    for start in range(0, len(steps), max(1, size)):
        chosen = steps[start : start + size]
        means = [math.fsum(values[step] for step in chosen) / len(chosen) for values in by_seed]
        points.append(
            CurvePoint(math.fsum(chosen) / len(chosen), math.fsum(means) / len(means), min(means), max(means))
        )
    return points


def _finite(lines: Sequence[dict[str, float]], metric: str) -> dict[float, float]:
    """The metric by step; a value that is not finite has no place on an axis."""
    return {line["step"]: line[metric] for line in lines if metric in line and math.isfinite(line[metric])}
