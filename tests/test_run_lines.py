"""The JSON lines of a run."""

import json

import pytest

from safe_train.files import split_lines
from safe_train.run_lines import has_step, keep_up_to, last_values

LINES = [{"step": 1, "kind": "is it\u2028a\x85circle?"}, {"step": 2, "kind": "\x0b\x0c\x1c\x1d\x1e\u2029"}]


@pytest.mark.parametrize("ascii", [True, False])
def test_separators_within_a_text_end_no_line(tmp_path, ascii):
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(f"{json.dumps(line, ensure_ascii=ascii)}\n" for line in LINES), encoding="utf-8")
    assert [json.loads(line) for line in split_lines(path.read_text(encoding="utf-8"))] == LINES
    assert has_step(path, 2)
    assert last_values(path) == {"kind": LINES[1]["kind"]}
    keep_up_to(path, 1)
    assert [json.loads(line) for line in split_lines(path.read_text(encoding="utf-8"))] == LINES[:1]


@pytest.mark.parametrize(("text", "lines"), [("", []), ("a", ["a"]), ("a\n", ["a"]), ("a\n\nb\n", ["a", "", "b"])])
def test_the_last_line_break_begins_no_line(tmp_path, text, lines):
    assert split_lines(text) == lines
    path = tmp_path / "lines.jsonl"
    path.write_text("")
    assert last_values(path) == {}
    assert not has_step(path, 1)
