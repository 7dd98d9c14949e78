"""Tables that fit a terminal: every cell is there, whole, and no line is longer than it need be."""

import pytest

from safe_train.io.text_table import align, terminal_width, wrap

HEADER = ("run", "silence", "distractor", "KL")
ROWS = [
    ("full_retention 42", "+0.0 [-1.5, +1.5]", "-0.2 [-1.7, +1.3]", "0.0002"),
    ("none 1", "-", "not retention", "2"),
]


def cells(lines):
    """The columns of all blocks by their header."""
    found = {}
    for block in "\n".join(lines).split("\n\n"):
        header, rule, *rows = block.splitlines()
        starts = [place for place, mark in enumerate(rule) if mark == "-" and (place == 0 or rule[place - 1] == " ")]
        for start, end in zip(starts, [*starts[1:], None], strict=True):
            found[header[start:end].strip()] = [row[start:end].strip() for row in rows]
    return found


EXPECTED = {name: [row[column] for row in ROWS] for column, name in enumerate(HEADER)}


@pytest.mark.parametrize("width", [None, 200, 80, 64, 63, 40, 37, 10, 1])
def test_every_cell_is_there_whole(width):
    assert cells(align(HEADER, ROWS, width)) == EXPECTED


@pytest.mark.parametrize(("width", "blocks"), [(None, 1), (63, 1), (62, 2), (55, 2), (54, 2), (44, 2), (43, 3), (1, 3)])
def test_it_is_split_where_it_would_not_fit(width, blocks):
    """The columns are 17, 17, 17 and 6 wide, two apart: 63 in all, 36 the first two, 44 first, third and last."""
    lines = align(HEADER, ROWS, width)
    assert lines.count("") == blocks - 1
    assert [line for line in lines if line.startswith("run ")] == [line for line in lines if "run" in line]
    if width is not None and width >= 36:  # two columns stay together however narrow it is
        assert max(map(len, lines)) <= width


def test_a_table_without_rows_has_its_header():
    assert align(("a", "bc"), []) == ["a  bc", "-  --"]


def test_words_are_never_broken():
    long = "a" * 30
    assert wrap(f"two words {long} non-inferiority", 20) == ["two words", long, "non-inferiority"]


def test_the_width_is_the_terminals(monkeypatch):
    monkeypatch.setenv("COLUMNS", "133")
    assert terminal_width() == 133
    monkeypatch.setenv("COLUMNS", "7")
    assert terminal_width() == 40
    monkeypatch.delenv("COLUMNS")
    assert terminal_width() == 80  # the tests' standard output is no terminal
