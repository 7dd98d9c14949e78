"""JSON that a disk or a person has damaged: one line, or None where there was an object. Folders whole or absent."""

import errno
import json
import os
import stat
from pathlib import Path

import pytest

from safe_train.errors import InputError
from safe_train.io.files import read_lines, read_object, staged_folder, write_text

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


# --- folders and files that are complete or absent


def contents(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def older(tmp_path):
    folder = tmp_path / "older"
    folder.mkdir()
    (folder / "a").write_text("old")
    (folder / "b").write_text("old")
    return folder


def test_a_folder_takes_the_place_of_an_older_one_whole(older):
    with staged_folder(older) as staging:
        (staging / "a").write_text("new")
        assert contents(older) == {"a": "old", "b": "old"}
    assert contents(older.parent) == {"older/a": "new"}


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_a_new_folder_has_the_permissions_that_the_umask_gives(tmp_path, umask):
    before = os.umask(umask)
    try:
        with staged_folder(tmp_path / "new"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o777 & ~umask


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("failing", range(4))
def test_a_folder_that_cannot_be_put_in_place_leaves_the_older_as_it_was(older, monkeypatch, failing):
    """The block fails, or the first, the second or none of the renames."""
    renames, rename = iter(range(1, 10)), Path.rename

    def fails_once(path, target):
        if next(renames) == failing:
            raise FULL
        return rename(path, target)

    def write():
        with staged_folder(older) as staging:
            (staging / "a").write_text("new")
            if failing == 0:
                raise FULL

    monkeypatch.setattr(Path, "rename", fails_once)
    if failing == 3:
        write()
        assert contents(older.parent) == {"older/a": "new"}
        return
    with pytest.raises(InputError, match="No space left on device"):
        write()
    assert contents(older.parent) == {"older/a": "old", "older/b": "old"}
    assert os.listdir(older.parent) == ["older"]  # noqa: PTH208


@pytest.mark.parametrize("failing", ["write_text", "replace"])
def test_a_file_that_cannot_be_written_leaves_the_older_as_it_was(older, monkeypatch, failing):
    def fails(*_arguments, **_options):
        raise FULL

    monkeypatch.setattr(Path, failing, fails)
    with pytest.raises(InputError, match="No space left on device"):
        write_text(older / "a", "new")
    assert contents(older) == {"a": "old", "b": "old"}


def test_a_file_is_on_the_disk_before_it_has_its_name(older, monkeypatch):
    """Otherwise, after a power failure, the name may stand for an empty file."""
    flushed, fsync = [], os.fsync

    def observed(descriptor):
        flushed.append((os.fstat(descriptor).st_ino, (older / "a").read_text()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", observed)
    write_text(older / "a", "new")
    assert flushed == [((older / "a").stat().st_ino, "old")]
    assert (older / "a").read_text() == "new"
