"""Paired tests against published values, closed forms, an independent solver and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import binom, norm

from safe_train.metrics.non_inferiority import design_effect, holm, mcnemar, non_inferiority


def paired(both, losses, gains, neither):
    """Answers before and after with these counts, each row a cluster of its own."""
    before = [True] * (both + losses) + [False] * (gains + neither)
    after = [True] * both + [False] * losses + [True] * gains + [False] * neither
    return before, after, [str(row) for row in range(len(before))]


@pytest.mark.parametrize(
    ("losses", "gains", "expected"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (0, 5, 2 / 2**5),
        (1, 9, 2 * (1 + 10) / 2**10),
        (12, 3, 2 * (1 + 15 + 105 + 455) / 2**15),
    ],
)
def test_mcnemar_is_the_two_sided_binomial_sum(losses, gains, expected):
    assert mcnemar(losses, gains) == pytest.approx(expected, rel=1e-12)


def test_holm_on_an_example_worked_by_hand():
    """Ordered 0.01, 0.02, 0.03, 0.5 times 4, 3, 2, 1, no value below the one before."""
    p_values = {"c": 0.03, "a": 0.01, "d": 0.5, "b": 0.02}
    assert holm(p_values) == pytest.approx({"c": 0.06, "a": 0.04, "d": 0.5, "b": 0.06})


def false_alarm_rate(adjust, rng, trials=2_000, tests=5):
    """How often any of several true hypotheses is rejected at 5 %."""
    return (
        sum(min(adjust({str(k): p for k, p in enumerate(rng.random(tests))}).values()) < 0.05 for _ in range(trials))
        / trials
    )


def test_holm_keeps_the_rate_of_any_false_alarm_and_single_tests_do_not():
    rng = np.random.default_rng(0)
    low, high = binom.ppf([5e-5, 1 - 5e-5], 2_000, 0.05) / 2_000
    assert low * 0.9 <= false_alarm_rate(holm, rng) <= high
    assert false_alarm_rate(dict, rng) > 0.15  # 1 - 0.95^5 = 0.226


def tango_statistic(losses, gains, n, delta):
    """The score test with the nuisance share found by numerical maximization instead of the closed form."""

    def negative_log_likelihood(loss):
        shares = (gains, loss + delta), (losses, loss), (n - gains - losses, 1 - 2 * loss - delta)
        return -sum(count * math.log(share) for count, share in shares if count)

    lower, upper = max(0.0, -delta) + 1e-12, (1 - delta) / 2 - 1e-12
    loss = minimize_scalar(negative_log_likelihood, bounds=(lower, upper), method="bounded", options={"xatol": 1e-13}).x
    return (gains - losses - n * delta) / math.sqrt(n * (2 * loss + delta * (1 - delta)))


@pytest.mark.parametrize(("losses", "gains", "n"), [(1, 0, 44), (6, 2, 200), (40, 35, 500), (12, 12, 1_000)])
@pytest.mark.parametrize("margin", [0.01, 0.05, 0.1])
def test_statistic_and_limit_against_numerical_maximization(losses, gains, n, margin):
    result = non_inferiority(*paired(n - losses - gains, losses, gains, 0), margin)
    assert result.p_value == pytest.approx(norm.sf(tango_statistic(losses, gains, n, -margin)), rel=1e-4)
    root = brentq(lambda d: tango_statistic(losses, gains, n, d) - norm.ppf(0.975), -0.6, (gains - losses) / n - 1e-9)
    assert result.lower_limit == pytest.approx(root, abs=1e-5)
    assert result.established == (root > -margin)


@given(n=st.integers(100, 5_000), margin=st.sampled_from([0.005, 0.01, 0.05]))
def test_without_any_change_the_limit_is_that_of_the_closed_form(n, margin):
    z = norm.ppf(0.975)
    result = non_inferiority([True] * n, [True] * n, [str(row) for row in range(n)], margin)
    assert result.lower_limit == pytest.approx(-(z**2) / (n + z**2), rel=1e-6)
    assert result.established == (n > z**2 * (1 - margin) / margin)


def simulate(loss, gain, *, rows, cluster_size, trials, seed):
    """Share of simulated experiments that establish a margin of 0.5 points; the rows of a cluster change together."""
    rng = np.random.default_rng(seed)
    established = 0
    for _ in range(trials):
        draws = np.repeat(rng.random(rows // cluster_size), cluster_size)
        lost, gained = draws < loss, draws > 1 - gain
        clusters = [str(row // cluster_size) for row in range(rows)]
        established += non_inferiority((~gained).tolist(), (~lost).tolist(), clusters, 0.005).established
    return established / trials


def test_a_loss_of_the_margin_is_called_harmless_as_rarely_as_promised():
    """2.5 %: at a true loss of 0.5 points, of 2,000 rows; the band holds all but one of 10,000 simulations."""
    rate = simulate(0.0075, 0.0025, rows=2_000, cluster_size=1, trials=1_000, seed=1)
    assert rate <= binom.ppf(1 - 1e-4, 1_000, 0.025) / 1_000


def test_rows_that_change_together_are_not_counted_twice(monkeypatch):
    """With the design effect the promise holds; without it the same data are called harmless far too often."""
    arguments = {"rows": 4_000, "cluster_size": 4, "trials": 500, "seed": 2}
    # The design effect is estimated from about ten discordant clusters here, which costs a little.
    assert simulate(0.0075, 0.0025, **arguments) <= 0.06
    monkeypatch.setattr("safe_train.metrics.non_inferiority.design_effect", lambda _values, _clusters: 1.0)
    assert simulate(0.0075, 0.0025, **arguments) > 0.08


def test_the_needed_rows_give_the_promised_power():
    """Rows for discordance 1 %, then simulated with no true loss: 90 % of the experiments establish it."""
    needed = non_inferiority(*paired(9_900, 50, 50, 0), 0.005).rows_needed
    rate = simulate(0.005, 0.005, rows=needed, cluster_size=1, trials=400, seed=3)
    low, high = binom.ppf([5e-5, 1 - 5e-5], 400, 0.9) / 400
    assert low <= rate <= high
    assert simulate(0.005, 0.005, rows=needed // 4, cluster_size=1, trials=400, seed=4) < low  # negative control


Z_LIMIT, Z_POWER = norm.ppf(0.975), norm.ppf(0.9)


def needed(losses, gains, n, margin, copies=1):
    """``rows_needed`` of answers of which each is given ``copies`` times in a cluster."""
    before, after, clusters = (values * copies for values in paired(n - losses - gains, losses, gains, 0))
    return non_inferiority(before, after, clusters, margin).rows_needed


@pytest.mark.parametrize(("losses", "gains"), [(60, 0), (0, 60), (40, 20)])
def test_rows_needed_grow_with_the_answers_that_change_whichever_way(losses, gains):
    """``(z_0.975 + z_0.9)^2 d / margin^2`` with the share d of answers that change."""
    expected = math.ceil((Z_LIMIT + Z_POWER) ** 2 * (60 / 1_000) / 0.01**2)
    assert needed(losses, gains, 1_000, 0.01) == expected


def test_rows_needed_take_the_margin_for_the_share_that_changes_where_less_does():
    """With no change, or one below the margin, power asks for ``(z_0.975 + z_0.9)^2 / margin`` rows."""
    expected = math.ceil((Z_LIMIT + Z_POWER) ** 2 / 0.01)
    assert needed(0, 0, 1_000, 0.01) == needed(2, 2, 1_000, 0.01) == expected
    assert needed(6, 6, 1_000, 0.01) > expected


def test_rows_needed_are_multiplied_by_the_design_effect():
    """Three copies of each row in its cluster: three times the rows, not more and not fewer."""
    change = np.array([-1.0] * 40 + [1.0] * 20 + [0.0] * 940)
    copies = np.tile(change, 3)
    effect = design_effect(copies, [str(row) for row in range(1_000)] * 3)
    assert effect == pytest.approx(3.0)
    single = (Z_LIMIT + Z_POWER) ** 2 * (60 / 1_000) / 0.01**2
    assert needed(40, 20, 1_000, 0.01, copies=3) == math.ceil(3 * single)


@pytest.mark.parametrize("margin", [0.005, 0.3, 0.7, 0.95])
def test_rows_needed_are_enough_to_establish_the_margin_where_nothing_changes(margin):
    """No fewer than ``z^2 (1 - margin) / margin``, below which even unchanged answers establish nothing."""
    rows = needed(0, 0, 100, margin)
    assert rows >= Z_LIMIT**2 * (1 - margin) / margin
    assert non_inferiority([True] * rows, [True] * rows, [str(row) for row in range(rows)], margin).established


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_design_effect_of_rows_that_all_agree_is_their_number(size):
    values = np.repeat(np.tile([1.0, -1.0], 50), size)
    clusters = [str(row // size) for row in range(len(values))]
    assert design_effect(values, clusters) == pytest.approx(size)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        non_inferiority([], [], [], 0.005)
    with pytest.raises(ValueError, match="as many answers before as after"):
        non_inferiority([True], [True, False], ["a"], 0.005)
    with pytest.raises(ValueError, match="margin must lie between 0 and 1"):
        non_inferiority([True], [True], ["a"], 0.0)
