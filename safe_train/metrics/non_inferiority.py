"""Tests of paired answers: McNemar, Holm, and whether a loss above a margin can be ruled out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, norm

CONFIDENCE = 0.975
"""One-sided; the limit is the lower end of a two-sided 95 % interval."""

POWER = 0.9
"""Chance of establishing non-inferiority where nothing is lost, at the sample size that is called needed."""


@dataclass(frozen=True)
class NonInferiority:
    """Whether paired answers are worse by less than a margin; shares in 0..1.

    Attributes:
        margin: the largest loss that is accepted, declared before the measurement.
        lower_limit: one-sided 97.5 % limit of the change in the share of right answers.
        p_value: of the hypothesis that the loss is the margin or more.
        established: whether the limit lies above ``-margin``.
        rows_needed: rows that establish it with a chance of 90 % if nothing is lost and as many answers change.
    """

    margin: float
    lower_limit: float
    p_value: float
    established: bool
    rows_needed: int


def mcnemar(losses: int, gains: int) -> float:
    """Two-sided exact p-value that answers are lost as often as gained: ``2 P(X <= min)``, X binomial with half chance.

    Rows are taken for independent. Source: McNemar 1947, Psychometrika 12; exact form.
    """
    discordant = losses + gains
    return float(binomtest(losses, discordant, 0.5).pvalue) if discordant else 1.0


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values adjusted so that the chance of any false rejection among them all stays below the level.

    The k-th smallest of m is multiplied by ``m - k + 1``, and no adjusted value is below one before it.
    Source: Holm 1979, Scandinavian Journal of Statistics 6.
    """
    adjusted: dict[str, float] = {}
    running = 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = running
    return {name: adjusted[name] for name in p_values}


def non_inferiority(
    before: Sequence[bool], after: Sequence[bool], clusters: Sequence[str], margin: float
) -> NonInferiority:
    """Tango's score test of ``P(after) - P(before) > -margin`` on paired answers.

    Unlike an interval of the mean, the score test knows that rows without a single lost answer prove only so much: with
    no change at all in n rows its limit is ``-z^2 / (n + z^2)``, so a margin of 0.5 points needs 765 rows. Rows of one
    cluster count for less by the design effect, the ratio of the clustered variance to that of independent rows.

    Source: Tango 1998, Statistics in Medicine 17(8); design effect: Kish 1965.

    Raises:
        ValueError: there is no row, the lengths differ, or the margin is not between 0 and 1.
    """
    if not before or not len(before) == len(after) == len(clusters):
        got = f"{len(before)}, {len(after)} and {len(clusters)}"
        raise ValueError(f"expected as many answers before as after and clusters, at least one, got {got}")
    if not 0.0 < margin < 1.0:
        raise ValueError(f"margin must lie between 0 and 1, got {margin}")
    change = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    effect = design_effect(change, clusters)
    n = len(change) / effect
    gains, losses = (float((change == sign).sum()) / effect for sign in (1.0, -1.0))
    statistic = _score(gains, losses, n, -margin)
    quantile = float(norm.ppf(CONFIDENCE))
    # At its least, that is more than the z^2 (1 - margin) / margin rows that unchanged answers need.
    discordance = max((gains + losses) / n, margin)
    power_rows = (quantile + float(norm.ppf(POWER))) ** 2 * discordance / margin**2
    return NonInferiority(
        margin=margin,
        lower_limit=_lower_limit(gains, losses, n, quantile),
        p_value=float(norm.sf(statistic)),
        established=bool(statistic > quantile),
        rows_needed=math.ceil(effect * power_rows),
    )


def design_effect(values: np.ndarray, clusters: Sequence[str]) -> float:
    """Variance of the mean with whole clusters as units over that with rows as units; at least 1."""
    _, member = np.unique(np.asarray(clusters), return_inverse=True)
    centered = values - values.mean()
    independent = float((centered**2).sum())
    if independent == 0.0:
        return 1.0
    sums = np.bincount(member, weights=centered)
    return max(1.0, float((sums**2).sum()) / independent)


def _score(gains: float, losses: float, n: float, delta: float) -> float:
    """Tango's statistic for ``H0: P(gain) - P(loss) = delta``; positive where the change is above ``delta``."""
    linear = -gains - losses + (2.0 * n - gains + losses) * delta
    constant = -losses * delta * (1.0 - delta)
    loss_share = (math.sqrt(max(0.0, linear**2 - 8.0 * n * constant)) - linear) / (4.0 * n)
    variance = n * (2.0 * loss_share + delta * (1.0 - delta))
    distance = gains - losses - n * delta
    if variance <= 0.0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def _lower_limit(gains: float, losses: float, n: float, quantile: float) -> float:
    """The change at which the statistic reaches the quantile, by bisection: it falls as ``delta`` rises."""
    low, high = -1.0, (gains - losses) / n
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if _score(gains, losses, n, middle) > quantile else (low, middle)
    return low
