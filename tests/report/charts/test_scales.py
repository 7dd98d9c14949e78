"""Axes rise from 0 to 1 and label round values."""

import pytest

from safe_train.report.charts.scales import linear, logarithmic, points


@pytest.mark.parametrize("scale", [linear([-3.0, 41.0]), logarithmic([1e-7, 20.0]), points([-60.0, 0.2], 0.5)])
def test_axes_rise_from_0_to_1_and_label_what_lies_on_them(scale):
    places = [scale.share(value) for value, _ in scale.ticks]
    assert places == sorted(places)
    assert (scale.share(scale.low), scale.share(scale.high)) == (0.0, 1.0)
    assert 3 <= len(scale.ticks) <= 14


def test_the_axis_of_points_shows_a_tenth_beside_sixty():
    scale = points([-60.0, 0.0], 0.5)
    assert scale.share(0.0) - scale.share(-0.1) > 0.01  # 0.0017 on a linear axis
    assert {0.0, -0.5} <= {value for value, _ in scale.ticks}


def test_an_axis_of_one_value_has_a_length():
    assert linear([2.0]).share(2.0) == pytest.approx(0.5)
