"""JSON that a disk or a person has damaged: one line, or None where there was an object."""

import json
import os

import pytest

from safe_train.errors import InputError
from safe_train.files import read_lines, read_object

DAMAGED = {
    "cut": b'{"step": 1', "another kind": b"[1]", "no text": b'{"step": "\xff"}', "deep": b"[" * 100_000,
    "a long number": b'{"step": ' + b"1" * 5_000 + b"}", "empty": b"",
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_no_object_is_one_line(tmp_path, name):
    path = tmp_path / "a.json"
    path.write_bytes(DAMAGED[name])
    with pytest.raises(InputError) as caught:
        read_object(path, "a thing", "make it again")
    assert str(caught.value).startswith(f"{path}: expected a thing, got ")
    assert "\n" not in str(caught.value)


def a_pipe(path):
    os.mkfifo(path)
    return path


@pytest.mark.parametrize(
    "make",
    [a_pipe, lambda path: path.parent, lambda path: path, lambda path: path.with_name("n" * 300)],
    ids=["pipe", "folder", "missing", "a name too long"],
)
def test_what_is_no_file_is_one_line_and_nothing_is_waited_for(tmp_path, make):
    with pytest.raises(InputError, match="expected a thing, got "):
        read_object(make(tmp_path / "a.json"), "a thing", "make it again")


def test_an_object_is_read_whatever_is_in_it(tmp_path):
    value = {"a": ["\u2028", "\x85", "ü", 1e-300, None]}
    (tmp_path / "a.json").write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    assert read_object(tmp_path / "a.json", "", "") == value


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_line_is_none_where_it_stands(tmp_path, name):
    (tmp_path / "a.jsonl").write_bytes(b'{"step": 1}\n' + DAMAGED[name] + b'\n{"step": "\xe2\x80\xa8"}\n')
    assert read_lines(tmp_path / "a.jsonl") == [{"step": 1}, None, {"step": "\u2028"}]


@pytest.mark.parametrize(("end", "steps"), [("", [1]), ('{"step"', [1]), ('{"step": 2', [1]), ('{"step": 2}', [1, 2])])
def test_a_last_line_that_was_cut_off_is_none_of_the_lines(tmp_path, end, steps):
    (tmp_path / "a.jsonl").write_text('{"step": 1}\n' + end)
    assert read_lines(tmp_path / "a.jsonl") == [{"step": step} for step in steps]


def test_no_file_has_no_lines(tmp_path):
    assert read_lines(tmp_path / "a.jsonl") == []
