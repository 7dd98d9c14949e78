"""Bootstrap intervals of means over rows that come in clusters, and exact ones where all clusters agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SHARE, DIFFERENCE = (0.0, 1.0), (-1.0, 1.0)
"""Bounds of a share of right answers and of the difference of two."""

_LEVEL = 0.025  # on either side

_EQUAL = 1e-9  # means of clusters of equal values of different sizes differ by rounding


@dataclass(frozen=True)
class Estimate:
    """A mean with the limits of its 95 % interval."""

    mean: float
    low: float
    high: float


def cluster_bootstrap(
    values: Sequence[float],
    clusters: Sequence[str],
    *,
    bounds: tuple[float, float] | None = None,
    resamples: int = 2_000,
    seed: int = 0,
) -> Estimate:
    """Mean of ``values`` and its 95 % percentile interval when whole clusters are drawn with replacement.

    Rows about one image are not independent; drawing images instead of rows keeps the interval honest. For the
    difference of two conditions on the same rows, give the differences. Source: Efron and Tibshirani 1993, chapter 13.

    Where all n clusters have one mean v, every resample has it too, and the percentile interval would have no width. If
    ``bounds`` (a, b) of the values are known, the exact limit takes its place. Clusters of another mean, a share r of
    all, would have stayed unseen with chance ``(1 - r)^n``; the two-sided 95 % limit of Clopper and Pearson (1934,
    Biometrika 26) on r is where that is 0.025: ``u = 1 - 0.025^(1/n)``. Such clusters have means from a to b, so that
    the mean over all lies between ``v - u (v - a)`` and ``v + u (b - v)``: for a share of 0, from 0 to u; for a
    difference of 0, from -u to u. A single cluster leaves nearly all of a to b. Clusters count alike here, whatever
    their number of rows. Without bounds the interval of equal clusters has no width.

    Args:
        values: one a row.
        clusters: one a row.
        bounds: least and largest value that there can be; :data:`SHARE`, :data:`DIFFERENCE` or None.
        resamples: draws of all clusters.
        seed: of the draws.

    Raises:
        ValueError: there is no value, or the lengths differ.
    """
    if not values or len(values) != len(clusters):
        raise ValueError(f"expected as many clusters as values and at least one, got {len(clusters)} and {len(values)}")
    _, member = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(member, weights=np.asarray(values, dtype=np.float64))
    sizes = np.bincount(member)
    if bounds is not None and np.ptp(sums / sizes) <= _EQUAL:
        return _limit_alike(float(np.mean(values)), len(sums), *bounds)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    for resample in range(resamples):  # one at a time: all at once take gigabytes with 40,000 images
        drawn = rng.integers(len(sums), size=len(sums))
        means[resample] = sums[drawn].sum() / sizes[drawn].sum()
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(np.mean(values)), float(low), float(high))


def _limit_alike(value: float, clusters: int, least: float, largest: float) -> Estimate:
    """The interval of clusters that all have this mean."""
    unseen = 1.0 - _LEVEL ** (1.0 / clusters)
    return Estimate(value, value - unseen * (value - least), value + unseen * (largest - value))


def cluster_bootstrap_ratio(
    numerators: Sequence[float],
    denominators: Sequence[float],
    clusters: Sequence[str],
    *,
    resamples: int = 2_000,
    seed: int = 0,
) -> Estimate | None:
    """Sum of ``numerators`` over sum of ``denominators`` with its interval, whole clusters drawn with replacement.

    None where a denominator of zero comes up, so that there is no ratio to speak of, and where there is one cluster,
    which tells nothing of how others differ. Clusters of one ratio leave an interval without width: nothing bounds what
    others could have.

    Raises:
        ValueError: there is no value, or the lengths differ.
    """
    if not numerators or not len(numerators) == len(denominators) == len(clusters):
        got = f"{len(numerators)}, {len(denominators)} and {len(clusters)}"
        raise ValueError(f"expected numerators, denominators and clusters of one length, at least one, got {got}")
    _, member = np.unique(np.asarray(clusters), return_inverse=True)
    if member.max() == 0:
        return None
    tops = np.bincount(member, weights=np.asarray(numerators, dtype=np.float64))
    bottoms = np.bincount(member, weights=np.asarray(denominators, dtype=np.float64))
    rng = np.random.default_rng(seed)
    ratios = np.empty(resamples)
    for resample in range(resamples):
        drawn = rng.integers(len(tops), size=len(tops))
        bottom = bottoms[drawn].sum()
        if bottom == 0.0:
            return None
        ratios[resample] = tops[drawn].sum() / bottom
    low, high = np.quantile(ratios, [0.025, 0.975])
    return Estimate(float(tops.sum() / bottoms.sum()), float(low), float(high))
