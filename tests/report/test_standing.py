"""Validity over seeds: a doubt about one seed is the variant's."""

import pytest

from tests.report.built import WIDE, built, told
from tests.report.conftest import EVERY


def test_one_seed_that_does_not_hear_is_enough(make_run, tmp_path):
    make_run(tmp_path, seed=1, conditions=EVERY, settings=WIDE)
    make_run(tmp_path, seed=2, conditions=EVERY, heard=1, settings=WIDE)  # 1 of 8 clips, which chance would give too
    (arm,), _, _ = built(tmp_path)
    assert arm.gain.low == pytest.approx(0.125)  # the range of two seeds lies above 0
    assert "but no variant hears" in told(tmp_path)[0]
    assert "(seed 2)" in told(tmp_path)[0]


def test_a_condition_that_one_seed_lacks_is_not_every_seeds(make_run, tmp_path):
    make_run(tmp_path, seed=1, conditions=EVERY, settings=WIDE)
    make_run(tmp_path, seed=2, settings=WIDE)
    assert (
        "under silence and distractor, the two that were measured, on VL questions, with 2 seeds" in told(tmp_path)[0]
    )
