"""One figure from several seeds: Student's interval, their range, and p-values."""

import pytest

from safe_train.metrics.intervals import Estimate
from safe_train.report.seeds import any_seed, over_seeds


def estimates(*means):
    return [Estimate(mean, mean - 9.0, mean + 9.0) for mean in means]


def test_the_interval_over_seeds_is_students():
    found = over_seeds(estimates(1.0, 2.0, 3.0, 4.0, 5.0))
    half = 2.776 * 2.5**0.5 / 5**0.5  # t of 4 degrees of freedom, from its table; variance 2.5
    assert (found.mean, found.kind) == (3.0, "seeds")
    assert (found.low, found.high) == pytest.approx((3.0 - half, 3.0 + half), abs=5e-4 * half)


def test_few_seeds_give_what_they_can():
    assert over_seeds(estimates(1.0, 3.0)).kind == "range"
    assert (over_seeds(estimates(1.0, 3.0)).low, over_seeds(estimates(1.0, 3.0)).high) == (1.0, 3.0)
    one = over_seeds(estimates(1.0))
    assert (one.low, one.high, one.kind) == (-8.0, 10.0, "rows")


def test_no_seed_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        over_seeds([])


@pytest.mark.parametrize(("values", "expected"), [([0.01], 0.01), ([0.5, 0.01, 0.2], 0.03), ([0.9, 0.8], 1.0)])
def test_p_values_of_seeds_are_bounded_by_their_number(values, expected):
    assert any_seed(values) == pytest.approx(expected)
