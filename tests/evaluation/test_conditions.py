"""Conditions: what plays with an example under each, and how they are chosen by name."""

from dataclasses import replace
from pathlib import Path

import pytest

from safe_train.audio.input import NOISE_DB, NOISE_SEEDS, Amplified, WhiteNoise
from safe_train.data.example import Example
from safe_train.errors import InputError
from safe_train.evaluation.conditions import CONDITIONS, conditions_for, keep_retention, select, sort_names
from safe_train.evaluation.distractors import Distractors

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


def test_rows_that_nothing_contradicts_are_left_out_of_the_condition():
    rows = CONDITIONS["contradictory"].playback("vl").examples(VL, Distractors(AUDIO, 0), 0)
    assert [row.row_id for row in rows] == ["v0", "v1", "v2", "v5"]


def heard(kind, name, rows, draw=0):
    chosen = CONDITIONS[name].playback(kind).examples(rows, Distractors(AUDIO, 0), draw)
    return [row.audio for row in chosen]


def test_what_each_condition_lets_be_heard():
    unrelated = heard("vl", "distractor", VL)
    assert heard("vl", "silence", VL) == [None] * len(VL)
    assert heard("vl", "loud", VL) == [Amplified(clip, 20.0) for clip in unrelated]
    assert heard("vl", "gain_-10", VL) == [Amplified(clip, -10.0) for clip in unrelated]
    assert all(isinstance(audio, WhiteNoise) and audio.level_db == -20.0 for audio in heard("vl", "noise", VL))
    assert heard("vl", "gate_0.5", VL) == unrelated
    assert heard("vl", "worst_of_4", VL, 0) == unrelated
    assert heard("audio", "matched", AUDIO) == [row.audio for row in AUDIO]
    assert heard("audio", "gain_+10", AUDIO) == [Amplified(row.audio, 10.0) for row in AUDIO]


def test_gates_and_draws():
    assert {name: c.gate for name, c in conditions_for("vl").items() if c.gate != 1} == {
        "gate_0.25": 0.25,
        "gate_0.5": 0.5,
        "gate_0.75": 0.75,
    }
    assert [name for name, c in conditions_for("vl").items() if not c.attach] == ["bypass"]
    assert {name: c.draws for name, c in conditions_for("vl").items() if c.draws > 1} == {"worst_of_4": 4}
    assert [CONDITIONS["worst_of_4"].stored_as(draw) for draw in (0, 1)] == [
        "distractor",
        "distractor.1",
    ]


def test_a_selection_keeps_the_registry_s_order_and_what_is_always_needed():
    chosen = select(["loud", "silence"])
    assert chosen.vl == ("bypass", "silence", "loud")
    assert chosen.audio == ("matched", "silence", "loud")
    assert select(["all"]).vl == tuple(conditions_for("vl"))
    assert select(["all"]).audio == tuple(conditions_for("audio"))


def test_noise_differs_between_rows_and_comes_in_as_many_kinds_as_are_kept():
    rows = [replace(VL[0], row_id=f"v{k}") for k in range(2 * NOISE_SEEDS + 1)]
    seeds = [audio.seed for audio in heard("vl", "noise", rows)]
    assert seeds == [*range(NOISE_SEEDS)] * 2 + [0]
    assert {audio.level_db for audio in heard("vl", "noise", rows)} == {NOISE_DB}


def test_an_unknown_condition_is_told_with_the_nearest():
    with pytest.raises(InputError, match="did you mean 'silence'"):
        select(["silense"])


def test_retention_conditions_have_audio_attached_and_the_gate_open():
    """By hand, from the names of all; a name that is not registered counts, so that no loss is passed over."""
    assert set(keep_retention(dict.fromkeys(CONDITIONS, 0))) == {
        "matched", "silence", "distractor", "contradictory", "loud", "noise", "worst_of_4", "gain_-20", "gain_-10",
        "gain_+10",
    }  # fmt: skip
    assert keep_retention({"bypass": 1, "gate_0.5": 2, "of another version": 3}) == {"of another version": 3}


def test_every_condition_says_what_plays_with_the_examples_that_it_is_for():
    for name, condition in CONDITIONS.items():
        assert condition.name == name
        for kind in ("vl", "text", "audio"):
            assert bool(condition.describe(kind)) == condition.is_for(kind)


def test_a_condition_plays_nothing_with_examples_that_it_is_not_for():
    with pytest.raises(ValueError, match="noise: expected examples that it is for, got audio examples"):
        CONDITIONS["noise"].playback("audio")


def test_names_are_sorted_as_they_are_registered():
    assert sort_names(["old", "loud", "silence", "bypass", "loud"]) == ["bypass", "silence", "loud", "old"]
