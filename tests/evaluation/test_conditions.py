"""Conditions: which clip a row hears, and that a clip called contradictory contradicts."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_train.audio.input import NOISE_DB, NOISE_SEEDS, Amplified, WhiteNoise
from safe_train.data.example import Example
from safe_train.errors import InputError
from safe_train.evaluation.conditions import AUDIO_CONDITIONS, VL_CONDITIONS, Distractors, select

CAPTIONS = ("one low bell", "two low bells", "three high drums", "a dog that barks", "2 cats")
AUDIO = [
    Example(f"a{k}", "what do you hear?", (caption,), audio=Path(f"{k}.wav"), cluster=f"a{k}")
    for k, caption in enumerate(CAPTIONS)
]
ANSWERS = (("1", "count"), ("2", "count"), ("3", "count"), ("red", "color"), ("dog", "animal"), ("cat", "animal"))
VL = [
    Example(f"v{k}", "what?", (answer,), image=Path(f"{k}.png"), kind=kind, cluster=str(k))
    for k, (answer, kind) in enumerate(ANSWERS)
]


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


def test_rows_that_nothing_contradicts_are_left_out_of_the_condition():
    rows = VL_CONDITIONS["contradictory"].rows(VL, Distractors(AUDIO, 0), 0)
    assert [row.row_id for row in rows] == ["v0", "v1", "v2", "v5"]


def test_an_unrelated_clip_would_often_not_contradict():
    """Negative control: the check above on the clips of the distractor condition."""
    allowed = {"1": {1, 2, 4}, "2": {0, 2}, "3": {0, 1, 4}}
    counts = VL[:3]
    wrong = 0
    for seed in range(20):
        for row, clip in zip(counts, Distractors(AUDIO, seed).unrelated(counts), strict=True):
            wrong += clip not in {Path(f"{k}.wav") for k in allowed[row.answers[0]]}
    assert wrong > 5


def heard(conditions, name, rows, draw=0):
    return [row.audio for row in conditions[name].rows(rows, Distractors(AUDIO, 0), draw)]


def test_what_each_condition_lets_be_heard():
    unrelated = heard(VL_CONDITIONS, "distractor", VL)
    assert heard(VL_CONDITIONS, "silence", VL) == [None] * len(VL)
    assert heard(VL_CONDITIONS, "loud", VL) == [Amplified(clip, 20.0) for clip in unrelated]
    assert heard(VL_CONDITIONS, "gain_-10", VL) == [Amplified(clip, -10.0) for clip in unrelated]
    assert all(isinstance(audio, WhiteNoise) and audio.level_db == -20.0 for audio in heard(VL_CONDITIONS, "noise", VL))
    assert heard(VL_CONDITIONS, "gate_0.5", VL) == unrelated
    assert heard(VL_CONDITIONS, "worst_of_4", VL, 0) == unrelated
    assert heard(AUDIO_CONDITIONS, "matched", AUDIO) == [row.audio for row in AUDIO]
    assert heard(AUDIO_CONDITIONS, "gain_+10", AUDIO) == [Amplified(row.audio, 10.0) for row in AUDIO]


def test_gates_and_draws():
    assert {name: c.gate for name, c in VL_CONDITIONS.items() if c.gate != 1} == {
        "gate_0.25": 0.25,
        "gate_0.5": 0.5,
        "gate_0.75": 0.75,
    }
    assert [name for name, c in VL_CONDITIONS.items() if not c.attach] == ["bypass"]
    assert {name: c.draws for name, c in VL_CONDITIONS.items() if c.draws > 1} == {"worst_of_4": 4}
    assert [VL_CONDITIONS["worst_of_4"].stored_as("worst_of_4", draw) for draw in (0, 1)] == [
        "distractor",
        "distractor.1",
    ]


def test_a_selection_keeps_the_registry_s_order_and_what_is_always_needed():
    chosen = select(["loud", "silence"])
    assert chosen.vl == ("bypass", "silence", "loud")
    assert chosen.audio == ("matched", "silence", "loud")
    assert select(["all"]).vl == tuple(VL_CONDITIONS)
    assert select(["all"]).audio == tuple(AUDIO_CONDITIONS)


def test_noise_differs_between_rows_and_comes_in_as_many_kinds_as_are_kept():
    rows = [replace(VL[0], row_id=f"v{k}") for k in range(2 * NOISE_SEEDS + 1)]
    seeds = [audio.seed for audio in heard(VL_CONDITIONS, "noise", rows)]
    assert seeds == [*range(NOISE_SEEDS)] * 2 + [0]
    assert {audio.level_db for audio in heard(VL_CONDITIONS, "noise", rows)} == {NOISE_DB}


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


def test_an_unknown_condition_is_told_with_the_nearest():
    with pytest.raises(InputError, match="did you mean 'silence'"):
        select(["silense"])
