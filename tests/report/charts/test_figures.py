"""The Pareto front."""

from safe_train.report.charts.figures import pareto_front


def test_the_front_holds_what_no_other_beats():
    pairs = [(1.0, 5.0), (2.0, 4.0), (2.0, 3.0), (3.0, 1.0), (0.5, 5.0), (3.0, 1.0)]
    assert pareto_front(pairs) == [(1.0, 5.0), (2.0, 4.0), (3.0, 1.0)]
