"""The lines of a run's metrics, after a crash and after damage."""

import json

import pytest

from safe_train.io.files import split_lines
from safe_train.runs.metrics_log import has_step, keep_up_to, last_values

LINES = [json.dumps({"step": step, "loss": 1 / step}) for step in range(1, 7)]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f"{line}\n" for line in LINES))
    return path


def steps_of(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize("end", ["", '{"step": 7, "lo', '{"step": 7}'])
def test_lines_of_later_steps_and_what_was_cut_off_go_in_silence(path, caplog, end):
    path.write_text(path.read_text() + end)
    keep_up_to(path, 4)
    assert path.read_text().splitlines() == LINES[:4]
    assert not caplog.records


@pytest.mark.parametrize(
    "damage", [b"\xff", b"{", b"[]", b'{"loss": 1}', b'{"step": "2"}', b'{"step": true}', b'{"step": null}', b""]
)
def test_damaged_lines_are_told_by_their_number(path, caplog, damage):
    lines = path.read_bytes().split(b"\n")
    lines[1] = lines[3] = damage
    path.write_bytes(b"\n".join(lines))
    assert not has_step(path, 2)
    assert has_step(path, 3)
    keep_up_to(path, 5)
    assert steps_of(path) == [1, 3, 5]
    (record,) = caplog.records
    assert record.getMessage() == f"{path}: expected JSON with a step a line; dropped: line 2, 4"


def test_the_last_values_are_those_of_the_last_whole_line(path):
    assert last_values(path) == {"loss": 1 / 6}
    path.write_text(path.read_text() + '{"step": 7, "lo')
    assert last_values(path) == {"loss": 1 / 6}
    path.write_bytes(path.read_bytes() + b"\xff\n")
    assert last_values(path) == {}


def test_without_a_file_there_is_nothing(tmp_path):
    keep_up_to(tmp_path / "none", 3)
    assert not (tmp_path / "none").exists()
    assert not has_step(tmp_path / "none", 1)
    assert last_values(tmp_path / "none") == {}


SEPARATED = [{"step": 1, "kind": "is it\u2028a\x85circle?"}, {"step": 2, "kind": "\x0b\x0c\x1c\x1d\x1e\u2029"}]


@pytest.mark.parametrize("ascii", [True, False])
def test_separators_within_a_text_end_no_line(tmp_path, ascii):
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(f"{json.dumps(line, ensure_ascii=ascii)}\n" for line in SEPARATED), encoding="utf-8")
    assert [json.loads(line) for line in split_lines(path.read_text(encoding="utf-8"))] == SEPARATED
    assert has_step(path, 2)
    assert last_values(path) == {"kind": SEPARATED[1]["kind"]}
    keep_up_to(path, 1)
    assert [json.loads(line) for line in split_lines(path.read_text(encoding="utf-8"))] == SEPARATED[:1]


@pytest.mark.parametrize(("text", "lines"), [("", []), ("a", ["a"]), ("a\n", ["a"]), ("a\n\nb\n", ["a", "", "b"])])
def test_the_last_line_break_begins_no_line(tmp_path, text, lines):
    assert split_lines(text) == lines
    path = tmp_path / "lines.jsonl"
    path.write_text("")
    assert last_values(path) == {}
    assert not has_step(path, 1)
