"""Clips whose audio is there, and the others by name."""

import logging

import pytest

from safe_train.data.datasets.clips import MissingClips, require_clips, separate_missing
from safe_train.data.datasets.records import AudioRecord
from safe_train.errors import InputError


def records(folder, *names):
    return [AudioRecord(name, folder / f"{name}.wav", ("a",), None, None) for name in names]


def test_missing_clips_are_apart_in_the_order_of_the_list(tmp_path):
    (tmp_path / "b.wav").touch()
    (tmp_path / "d.wav").touch()
    present, missing = separate_missing(records(tmp_path, "a", "b", "c", "d"), tmp_path / "list.json")
    assert [record.clip_id for record in present] == ["b", "d"]
    assert missing == MissingClips(tmp_path / "list.json", ("a", "c"), 4)


def test_the_report_counts_and_names_five(tmp_path):
    _, missing = separate_missing(records(tmp_path, *"abcdefg"), tmp_path / "list.json")
    assert str(missing).endswith("list.json: 7 of 7 clips have no audio file: a, b, c, d, e and 2 more")


def test_some_clips_are_enough_and_none_is_an_error(tmp_path, caplog):
    (tmp_path / "b.wav").touch()
    found = separate_missing(records(tmp_path, "a", "b"), tmp_path / "list.json")
    with caplog.at_level(logging.WARNING):
        assert [record.clip_id for record in require_clips(*found)] == ["b"]
    assert "1 of 2 clips have no audio file: a" in caplog.text
    with pytest.raises(InputError, match="expected audio files for its clips, got none of 1, first a"):
        require_clips(*separate_missing(records(tmp_path, "a"), tmp_path / "list.json"))
