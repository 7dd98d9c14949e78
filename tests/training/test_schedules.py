"""Learning rates and gate over the steps, at points that are written out here."""

from itertools import pairwise

import pytest

from safe_train.training.schedules import gate_schedule, learning_rate_schedule
from safe_train.training.settings import OptimizationSettings


def test_learning_rate_rises_linearly_and_falls_as_a_cosine():
    settings = OptimizationSettings(max_steps=100, warmup_ratio=0.1)
    scales = [learning_rate_schedule(step, settings) for step in range(100)]
    assert scales[0] == pytest.approx(0.1)
    assert scales[9] == scales[10] == 1.0
    assert scales[55] == pytest.approx(0.5)
    assert all(a > b for a, b in pairwise(scales[10:]))


def test_the_schedule_of_a_run_that_is_all_warmup_has_an_end():
    """The optimizer asks for the step after the last one, too."""
    assert learning_rate_schedule(0, OptimizationSettings(max_steps=1)) == learning_rate_schedule(
        1, OptimizationSettings(max_steps=1)
    )
    whole = OptimizationSettings(max_steps=10, warmup_ratio=1.0)
    assert learning_rate_schedule(9, whole) == learning_rate_schedule(10, whole) == 1.0


def test_gate_opens_linearly_and_stays_open():
    settings = OptimizationSettings(max_steps=100, gate_warmup_ratio=0.04)
    assert [gate_schedule(step, settings) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert gate_schedule(0, OptimizationSettings(max_steps=100, gate_warmup_ratio=0.0)) == 1.0
