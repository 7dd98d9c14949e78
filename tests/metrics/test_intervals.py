"""The cluster bootstrap: its mean, and how often its interval covers a mean that is known."""

import numpy as np
import pytest
from scipy.stats import beta, binom, binomtest

from safe_train.metrics.intervals import DIFFERENCE, SHARE, cluster_bootstrap, cluster_bootstrap_ratio

NUM_CLUSTERS, CLUSTER_SIZE, NUM_EXPERIMENTS = 60, 6, 400
TRUE_MEAN = 0.4


def experiment(rng):
    """Rows that share a random effect within their cluster: intraclass correlation 0.8."""
    effects = rng.normal(TRUE_MEAN, 2.0, size=NUM_CLUSTERS)
    values = np.repeat(effects, CLUSTER_SIZE) + rng.normal(0.0, 1.0, size=NUM_CLUSTERS * CLUSTER_SIZE)
    return values.tolist(), [str(cluster) for cluster in range(NUM_CLUSTERS) for _ in range(CLUSTER_SIZE)]


def covered(values, clusters, seed):
    interval = cluster_bootstrap(values, clusters, resamples=400, seed=seed)
    return interval.low <= TRUE_MEAN <= interval.high


def coverage_band(probability):
    """Counts out of NUM_EXPERIMENTS that a coverage of this probability gives in all but one of 10,000 cases."""
    return binom.ppf([5e-5, 1 - 5e-5], NUM_EXPERIMENTS, probability)


def test_a_95_percent_interval_covers_the_mean_as_often_as_it_says():
    """A percentile interval over 60 clusters is a little narrow: its nominal coverage is 94 % (Gaussian, t of 59)."""
    rng = np.random.default_rng(0)
    hits = sum(covered(*experiment(rng), seed) for seed in range(NUM_EXPERIMENTS))
    low, high = coverage_band(0.94)
    assert low <= hits <= high


def test_rows_taken_for_independent_are_covered_less_often():
    """Negative control: the same check with each row a cluster of its own."""
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(NUM_EXPERIMENTS):
        values, _ = experiment(rng)
        hits += covered(values, [str(row) for row in range(len(values))], seed)
    low, _ = coverage_band(0.94)
    assert hits < low


def test_its_standard_error_is_that_of_the_ratio_estimator():
    """For clusters of one size, the interval's half width is 1.96 times the standard error of the cluster means."""
    values, clusters = experiment(np.random.default_rng(3))
    means = np.asarray(values).reshape(NUM_CLUSTERS, CLUSTER_SIZE).mean(axis=1)
    interval = cluster_bootstrap(values, clusters, resamples=4_000)
    expected = 1.96 * means.std() / np.sqrt(NUM_CLUSTERS)
    # The quantiles of 4,000 resamples are off by about 2 %.
    assert (interval.high - interval.low) / 2 == pytest.approx(expected, rel=0.08)


def test_the_mean_is_over_rows_and_not_over_clusters():
    interval = cluster_bootstrap([1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"])
    assert interval.mean == 0.75
    assert (interval.low, interval.high) == (0.0, 1.0)  # two clusters: both resamples of one alone come up


def test_rows_of_a_cluster_need_not_be_neighbors():
    values, clusters = experiment(np.random.default_rng(1))
    order = np.random.default_rng(2).permutation(len(values))
    shuffled = cluster_bootstrap([values[i] for i in order], [clusters[i] for i in order])
    assert shuffled.low == pytest.approx(cluster_bootstrap(values, clusters).low)


def test_the_seed_decides():
    values, clusters = experiment(np.random.default_rng(1))
    assert cluster_bootstrap(values, clusters) == cluster_bootstrap(values, clusters)
    assert cluster_bootstrap(values, clusters) != cluster_bootstrap(values, clusters, seed=1)


def limits(values, clusters, bounds):
    interval = cluster_bootstrap(values, clusters, bounds=bounds)
    return interval.low, interval.mean, interval.high


@pytest.mark.parametrize("count", [1, 2, 30, 2_000])
def test_shares_that_are_all_0_or_all_1_have_the_limits_of_clopper_and_pearson(count):
    """Two rows a cluster, which count once; the limits are those of beta quantiles and of scipy's exact interval."""
    clusters = [str(row // 2) for row in range(2 * count)]
    exact = binomtest(0, count).proportion_ci(0.95, "exact")
    assert limits([0.0] * 2 * count, clusters, SHARE) == pytest.approx((0.0, 0.0, exact.high))
    assert exact.high == pytest.approx(beta.ppf(0.975, 1, count))
    exact = binomtest(count, count).proportion_ci(0.95, "exact")
    assert limits([1.0] * 2 * count, clusters, SHARE) == pytest.approx((exact.low, 1.0, 1.0))


@pytest.mark.parametrize("count", [1, 30, 2_000])
def test_differences_that_are_all_0_have_the_exact_limit_of_the_rate_of_change(count):
    clusters = [str(row) for row in range(count)]
    rate = binomtest(0, count).proportion_ci(0.95, "exact").high
    assert limits([0.0] * count, clusters, DIFFERENCE) == pytest.approx((-rate, 0.0, rate))
    assert limits([-1.0] * count, clusters, DIFFERENCE) == pytest.approx((-1.0, -1.0, -1.0 + 2 * rate))


def test_clusters_of_one_mean_are_alike_though_their_rows_are_not():
    """Each cluster has one right of two, or two of four: resampling gives a half every time."""
    values, clusters = [0.0, 1.0] * 20, [str(row // 2) for row in range(40)]
    values += [0.0, 0.0, 1.0, 1.0]
    rate = binomtest(0, 21).proportion_ci(0.95, "exact").high
    found = limits(values, [*clusters, *["large"] * 4], SHARE)
    assert found == pytest.approx((0.5 - rate / 2, 0.5, 0.5 + rate / 2))


def test_one_cluster_leaves_nearly_everything_open():
    assert limits([0.0, 1.0, 1.0, 1.0], ["a"] * 4, SHARE) == pytest.approx((0.75 * 0.025, 0.75, 0.75 + 0.975 * 0.25))


def test_the_limit_is_no_wider_than_it_must_be():
    """A rate of change just below the limit stays unseen with a chance above 2.5 %, one just above it with less."""
    rate = cluster_bootstrap([0.0] * 50, [str(row) for row in range(50)], bounds=DIFFERENCE).high
    assert binom.pmf(0, 50, rate - 1e-6) > 0.025 > binom.pmf(0, 50, rate + 1e-6)


def test_values_that_differ_are_resampled_whatever_their_bounds():
    values, clusters = [1.0] * 40 + [0.0], [str(row) for row in range(41)]
    assert cluster_bootstrap(values, clusters, bounds=SHARE) == cluster_bootstrap(values, clusters)


def test_equal_values_without_bounds_have_no_width():
    interval = cluster_bootstrap([1.0] * 4, ["a", "a", "b", "c"])
    assert (interval.mean, interval.low, interval.high) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(("values", "clusters"), [([], []), ([1.0], []), ([1.0], ["a", "b"])])
def test_empty_and_unequal_inputs_are_refused(values, clusters):
    with pytest.raises(ValueError, match="as many clusters as values"):
        cluster_bootstrap(values, clusters)


def test_the_ratio_of_proportional_values_is_exact():
    values, clusters = experiment(np.random.default_rng(1))
    bottoms = [abs(value) + 1.0 for value in values]
    found = cluster_bootstrap_ratio([0.7 * value for value in bottoms], bottoms, clusters)
    assert (found.mean, found.low, found.high) == pytest.approx((0.7, 0.7, 0.7))


def test_the_ratio_interval_is_that_of_the_delta_method():
    """Half width 1.96 times the standard error of ``sum(top - r bottom) / sum(bottom)`` over clusters."""
    rng = np.random.default_rng(5)
    bottoms = rng.uniform(0.5, 1.5, size=NUM_CLUSTERS * CLUSTER_SIZE)
    tops = 0.8 * bottoms + np.repeat(rng.normal(0, 0.2, NUM_CLUSTERS), CLUSTER_SIZE)
    clusters = [str(cluster) for cluster in range(NUM_CLUSTERS) for _ in range(CLUSTER_SIZE)]
    found = cluster_bootstrap_ratio(tops.tolist(), bottoms.tolist(), clusters, resamples=4_000)
    ratio = tops.sum() / bottoms.sum()
    residuals = (tops - ratio * bottoms).reshape(NUM_CLUSTERS, CLUSTER_SIZE).sum(axis=1)
    expected = 1.96 * np.sqrt((residuals**2).sum()) / bottoms.sum()
    assert found.mean == pytest.approx(ratio)
    assert (found.high - found.low) / 2 == pytest.approx(expected, rel=0.08)


def test_a_ratio_over_nothing_is_none():
    assert cluster_bootstrap_ratio([0.0, 0.0], [0.0, 0.0], ["a", "b"]) is None


def test_a_ratio_of_a_single_cluster_is_none():
    assert cluster_bootstrap_ratio([1.0, 2.0], [2.0, 3.0], ["a", "a"]) is None


def test_a_ratio_of_unequal_lengths_is_refused():
    with pytest.raises(ValueError, match="of one length"):
        cluster_bootstrap_ratio([1.0], [1.0, 2.0], ["a", "b"])
