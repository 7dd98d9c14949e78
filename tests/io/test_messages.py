"""Text from outside in messages."""

import pytest

from safe_train.errors import InputError
from safe_train.io.messages import one_line, shortened, typed, value_shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, äöü 犬 \N{DOG FACE} \u00a0", "plain text, äöü 犬 \N{DOG FACE} \u00a0"),
        ("a\nb\r\nc\td", "a b c d"),
        ("a\u2028b\x85c\x0bd", "a b c d"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("\x9b2J\x7f\0", "\\x9b2J\\x7f\\x00"),
        ("cut \ud83d", "cut \\ud83d"),
        ("a\u202egnp.exe", "a\\u202egnp.exe"),
        ("\u2067a\u2069", "\\u2067a\\u2069"),
        ("👨\u200d👩", "👨\u200d👩"),
    ],
)
def test_a_line_that_steers_no_terminal(text, shown):
    assert one_line(text) == shown


def test_an_error_is_such_a_line():
    error = InputError("a\x1b[31m.json", "an id", "x\nerror: all is well", "mend it")
    assert str(error) == "a\\x1b[31m.json: expected an id, got x error: all is well; mend it"


def test_long_text_is_told_with_its_length():
    assert shortened("a" * 160) == "a" * 160
    assert shortened("a" * 12_345) == "a" * 80 + "... (12,345 characters)"


def test_values_of_any_depth_and_size():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert value_shown(deep) == "[[[[...]]]]"
    for value in (deep, list(range(10**6)), "x" * 10**6, {str(n): n for n in range(1_000)}, 10**4_000):
        assert len(value_shown(value)) <= 60
    assert (typed("two"), typed([1]), typed(None)) == ("str 'two'", "list [1]", "NoneType None")
    while deep:  # or taking it down would recurse
        deep = deep.pop()
