"""Cells of data sets as paths: what is read is what was put in."""

import pickle
import sys
from pathlib import Path

import pytest

from safe_train.errors import InputError
from safe_train.io.files import file_problem
from safe_train.io.find_file import find_file
from safe_train.io.fingerprints import content_sha256, file_sha256
from safe_train.io.tables import Table, TableCell, open_table

datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")

CLIPS = [b"RIFF1234WAVE", b"fLaC" + b"x" * 1000, b"OggS", b"ID3", b"\xff\xfb\x90", b"who knows", b""]


def data(contents, path=lambda _row: None, name="audio", feature=datasets.Audio):
    rows = [{name: {"bytes": content, "path": path(row)}, "caption": str(row)} for row, content in enumerate(contents)]
    return datasets.Dataset.from_list(rows).cast_column(name, feature(decode=False))


@pytest.fixture(params=["parquet", "saved"])
def source(request, tmp_path):
    if request.param == "saved":
        data(CLIPS).save_to_disk(tmp_path / "train")
        return tmp_path / "train"
    data(CLIPS[:3]).to_parquet(tmp_path / "train-00000-of-00002.parquet")
    data(CLIPS[3:]).to_parquet(tmp_path / "train-00001-of-00002.parquet")
    return tmp_path / "train-00000-of-00002.parquet"


def test_what_is_read_is_what_was_put_in(source, tmp_path):
    cells = open_table(source).cells("audio")
    assert [cell.suffix for cell in cells] == [".wav", ".flac", ".ogg", ".mp3", ".mp3", "", ""]
    for cell, content in zip(cells, CLIPS, strict=True):
        (tmp_path / "plain").write_bytes(content)
        assert isinstance(cell, Path)
        assert cell.read_bytes() == content
        assert cell.stat().st_size == len(content)
        assert file_problem(cell) is None
        assert file_sha256(cell) == content_sha256(cell) == file_sha256(tmp_path / "plain")
        with cell.open("rb", buffering=0) as opened:
            assert opened.readall() == content
        again = pickle.loads(pickle.dumps(cell))
        assert (again, again.read_bytes()) == (cell, content)


def test_nothing_is_read_to_know_that_a_cell_is_there(source, monkeypatch):
    cells = open_table(source).cells("audio")
    monkeypatch.setattr(Table, "content", lambda *_arguments: pytest.fail("the bytes were read"))
    assert [file_problem(cell) for cell in cells] == [None] * len(CLIPS)
    assert [cell.stat().st_size for cell in cells] == list(map(len, CLIPS))


def test_a_text_leads_back_to_the_cell(source):
    for cell in open_table(source).cells("audio"):
        found = find_file(Path(str(cell)))
        assert isinstance(found, TableCell)
        assert found.read_bytes() == cell.read_bytes()
    assert not isinstance(find_file(source / "00000099.wav"), TableCell)
    assert not isinstance(find_file(source / "00000001.other"), TableCell)


def test_names_end_as_their_paths_do(tmp_path):
    data(CLIPS, lambda row: f"clips/{row}.WAV").save_to_disk(tmp_path / "train")
    assert {cell.suffix for cell in open_table(tmp_path / "train").cells("audio")} == {".wav"}


def test_what_has_a_path_and_no_bytes_is_that_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "0.wav").touch()  # the package asks for its size
    data([None, b"RIFF"], lambda row: f"audio/{row}.wav").to_parquet(tmp_path / "train.parquet")
    first, second = open_table(tmp_path / "train.parquet").cells("audio")
    assert first == "audio/0.wav"
    assert second.read_bytes() == b"RIFF"


def test_columns_are_found_by_their_features(tmp_path):
    data([b"\x89PNG", b"GIF8", b"\xff\xd8"], name="picture", feature=datasets.Image).save_to_disk(tmp_path / "train")
    table = open_table(tmp_path / "train")
    assert table.media == {"image": "picture"}
    assert [cell.suffix for cell in table.cells("image")] == [".png", ".gif", ".jpg"]
    assert dict(table.fields()) == {"caption": ["0", "1", "2"]}


def test_two_columns_of_a_kind_are_told(tmp_path):
    two = data([b"a"], name="left").add_column("right", [{"bytes": b"b", "path": None}])
    two.cast_column("right", datasets.Audio(decode=False)).save_to_disk(tmp_path / "train")
    with pytest.raises(
        InputError, match="expected one column of audio, got left, right; call the one that counts audio"
    ):
        open_table(tmp_path / "train")
    two.rename_column("right", "audio").cast_column("audio", datasets.Audio(decode=False)).save_to_disk(
        tmp_path / "val"
    )
    assert open_table(tmp_path / "val").cells("audio")[0].read_bytes() == b"b"


def test_class_labels_are_their_names(tmp_path):
    labeled = data([b"a", b"b"]).add_column("caption2", [1, 0])
    labeled = labeled.cast_column("caption2", datasets.ClassLabel(names=["dog", "cat"]))
    labeled.save_to_disk(tmp_path / "train")
    assert open_table(tmp_path / "train").fields()["caption2"] == ["cat", "dog"]


def test_a_file_that_changes_is_read_again(tmp_path):
    path = tmp_path / "train.parquet"
    data([b"one"]).to_parquet(path)
    (first,) = open_table(path).cells("audio")
    data([b"other"]).to_parquet(path)
    assert first.read_bytes() == b"other"


def test_what_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    broken = tmp_path / "train.parquet"
    broken.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(
        InputError, match=r"train\.parquet: expected a data set that datasets can read, got .*; fetch or"
    ):
        open_table(broken)
    data([b"x"]).to_parquet(tmp_path / "val-00000-of-00002.parquet")
    with pytest.raises(InputError, match="expected 2 files, as its name says, got none with number 1"):
        open_table(tmp_path / "val-00000-of-00002.parquet")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"the package datasets, which reads it, got none; pip install .datasets"):
        open_table(broken)
