"""The one-line error for bad input."""

import pickle
from pathlib import Path

import pytest

from safe_train.errors import InputError, nearest


def test_its_text_names_place_expectation_finding_and_way_out():
    error = InputError(where=Path("a/b.json"), expected="a list", got="a number", hint="write [1]")
    assert str(error) == "a/b.json: expected a list, got a number; write [1]"


def test_its_text_is_one_line_whatever_the_parts_hold():
    text = str(InputError(where="x", expected="a\nb", got="c\r\nd\u2028e", hint="f\vg"))
    assert text == "x: expected a b, got c d e; f g"


def test_names_with_double_spaces_are_kept():
    assert "two  spaces.wav" in str(InputError("two  spaces.wav", "audio", "text", "replace it"))


def test_it_survives_the_way_between_processes():
    error = InputError(where=Path("a.wav"), expected="audio", got="text", hint="replace it")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.where, copy.hint) == (str(error), Path("a.wav"), "replace it")


@pytest.mark.parametrize(
    ("name", "expected"), [("trian", "train"), ("TRAIN", "train"), ("vall", "val"), ("qqqq", None), ("", None)]
)
def test_nearest(name, expected):
    assert nearest(name, ["train", "val"]) == expected
