"""One figure from several seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.stats import t

from safe_train.metrics.intervals import Estimate

Kind = Literal["seeds", "range", "rows"]

ENOUGH_SEEDS = 3
"""Fewer seeds give no interval over seeds."""


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its limits.

    Attributes:
        mean: over seeds.
        low: lower limit.
        high: upper limit.
        kind: ``seeds``: 95 % t-interval over three seeds or more; ``range``: smallest and largest of two seeds;
            ``rows``: the 95 % interval of one run, over its rows, or of several with exactly the same mean the
            intervals of all: runs that agree do not make certain what none of them knows.
    """

    mean: float
    low: float
    high: float
    kind: Kind


def over_seeds(estimates: Sequence[Estimate]) -> Interval:
    """``mean +- t(0.975, n - 1) s / sqrt(n)`` from three seeds on, with ``s`` the standard deviation of their means.

    Source: Student 1908, Biometrika 6.

    Raises:
        ValueError: there is no estimate.
    """
    if not estimates:
        raise ValueError("expected at least one estimate, got none")
    means = [estimate.mean for estimate in estimates]
    mean, n = math.fsum(means) / len(means), len(means)
    if n == 1:
        return Interval(mean, estimates[0].low, estimates[0].high, "rows")
    if min(means) == max(means):
        return Interval(mean, min(e.low for e in estimates), max(e.high for e in estimates), "rows")
    if n < ENOUGH_SEEDS:
        return Interval(mean, min(means), max(means), "range")
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in means) / (n - 1))
    half = float(t.ppf(0.975, n - 1)) * deviation / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, "seeds")


def any_seed(p_values: Sequence[float]) -> float:
    """p-value that something holds in every seed: ``min(1, n min p)``, whatever the seeds have in common.

    Source: Bonferroni's inequality.
    """
    return min(1.0, len(p_values) * min(p_values))
