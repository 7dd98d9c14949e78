"""How numbers are written: signs, units, and limits kept within what a figure can be."""

import pytest

from safe_train.metrics.captions import CIDER_D
from safe_train.metrics.exact_match import EXACT_MATCH
from safe_train.report import wording
from safe_train.report.seeds import Interval

MINUS = "\u2212"


@pytest.mark.parametrize(
    ("share", "text"), [(0.0123, "+1.2"), (-0.0123, f"{MINUS}1.2"), (0.0004, "0.0"), (-0.0004, "0.0")]
)
def test_points_have_a_sign_unless_they_round_to_zero(share, text):
    assert wording.points(share) == text


def test_limits_stay_within_what_a_figure_can_be():
    wide = Interval(0.5, -1.5, 2.0, "seeds")
    assert wording.points_limits(wide) == f"{MINUS}100.0 to +100.0"
    assert wording.percent_limits(wide) == "0.0 to 100.0"
    assert wording.score_limits(wide, EXACT_MATCH) == "0.0 to 100.0"
    assert wording.score_limits(wide, CIDER_D) == "0.00 to 10.00"
    assert wording.score_change_limits(wide, CIDER_D) == f"{MINUS}10.00 to +10.00"


def test_scores_are_in_the_range_of_their_metric():
    assert wording.score(0.123, EXACT_MATCH) == "12.3\u00a0%"
    assert wording.score(0.123, CIDER_D) == "1.23"
    assert wording.score_change(-0.05, EXACT_MATCH) == f"{MINUS}5.0"
    assert wording.score_change(-0.05, CIDER_D) == f"{MINUS}0.50"


@pytest.mark.parametrize(("value", "text"), [(0.0004, "<\u00a00.001"), (0.0123, "0.012"), (0.25, "0.25")])
def test_p_values_have_the_digits_that_matter(value, text):
    assert wording.p_value(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.23, "1.2\u00a0s"), (59.6, "60\u00a0s"), (61, "1\u00a0min 1\u00a0s"), (3_660, "1\u00a0h 1\u00a0min")],
)
def test_durations_have_the_two_units_that_say_most(value, text):
    assert wording.seconds(value) == text


def test_bits_and_counts():
    assert (wording.bits(0.0123), wording.bits(-0.0001)) == ("+0.012", "0.000")
    assert (wording.counts([60, 60]), wording.counts([60, 1_200])) == ("60", "60 to 1,200")
