"""Distractors: no example hears its own clip, and a clip called contradictory contradicts."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_train.data.example import Example
from safe_train.errors import InputError
from safe_train.evaluation.distractors import Distractors
from tests.evaluation.test_conditions import AUDIO, VL


@given(seed=st.integers(0, 2**31), count=st.integers(2, 5), draw=st.integers(0, 5))
def test_a_distractor_is_never_the_row_s_own_clip(seed, count, draw):
    rows = AUDIO[:count] * 5
    for row, clip in zip(rows, Distractors(AUDIO[:count], seed).unrelated(rows, draw), strict=True):
        assert clip != row.audio


def test_distractors_are_drawn_evenly():
    drawn = Distractors(AUDIO[:4], 0).unrelated([AUDIO[0]] * 3_000)
    for row in AUDIO[1:4]:
        assert abs(drawn.count(row.audio) - 1_000) < 4 * (3_000 * (1 / 3) * (2 / 3)) ** 0.5


def test_each_draw_is_another_clip():
    distractors = Distractors(AUDIO, 0)
    for heard in zip(*(distractors.unrelated(VL, draw) for draw in range(4)), strict=True):
        assert len(set(heard)) == 4


def test_a_single_clip_cannot_distract():
    with pytest.raises(InputError, match="at least two different clips, got 1"):
        Distractors([AUDIO[0], AUDIO[0]], 0)


@pytest.mark.parametrize("seed", range(5))
def test_a_contradictory_clip_names_a_wrong_answer_of_the_kind_and_not_the_right_one(seed):
    """By hand: number words count as digits; no clip names a color; "2 cats" is no cat."""
    allowed = {"1": {"1", "2", "4"}, "2": {"0", "2"}, "3": {"0", "1", "4"}, "red": set(), "dog": set(), "cat": {"3"}}
    for row, clip in zip(VL, Distractors(AUDIO, seed).contradicting(VL), strict=True):
        expected = {Path(f"{k}.wav") for k in allowed[row.answers[0]]}
        assert clip in expected if expected else clip is None


def test_an_unrelated_clip_would_often_not_contradict():
    """Negative control: the check above on the clips of the distractor condition."""
    allowed = {"1": {1, 2, 4}, "2": {0, 2}, "3": {0, 1, 4}}
    counts = VL[:3]
    wrong = 0
    for seed in range(20):
        for row, clip in zip(counts, Distractors(AUDIO, seed).unrelated(counts), strict=True):
            wrong += clip not in {Path(f"{k}.wav") for k in allowed[row.answers[0]]}
    assert wrong > 5


def test_a_clip_that_also_names_the_right_answer_contradicts_nothing():
    """Two cats and three dogs are heard: 2 and 3 are both said, so that only "one bell" contradicts 2 and 3."""
    clips = [
        Example("b0", "what?", ("2 cats and 3 dogs",), audio=Path("both.wav")),
        Example("b1", "what?", ("one bell",), audio=Path("one.wav")),
    ]
    asked = [Example(f"n{k}", "how many?", (str(k),), kind="count") for k in (1, 2, 3)]
    for seed in range(10):
        found = Distractors(clips, seed).contradicting(asked)
        assert found == [Path("both.wav"), Path("one.wav"), Path("one.wav")]


def test_every_reference_of_a_row_counts_as_right_when_wrong_answers_are_sought():
    """Somebody said 2, so that a clip that names 2 alone does not contradict the row."""
    clips = [
        Example("b0", "what?", ("two cats",), audio=Path("two.wav")),
        Example("b1", "what?", ("one bell",), audio=Path("one.wav")),
    ]
    asked = [Example("n0", "?", ("3", "2"), kind="count"), Example("n1", "?", ("2",), kind="count")]
    assert Distractors(clips, 0).contradicting(asked) == [None, None]  # 1 is no answer to that kind of question
