"""Files in tar archives as paths: what is read is what was put in, and derived paths are ordinary ones."""

import copy
import io
import os
import pickle
import tarfile
from pathlib import Path

import pytest

from safe_train.errors import InputError
from safe_train.io.archives import list_archive
from safe_train.io.files import file_problem
from safe_train.io.find_file import find_file
from safe_train.io.fingerprints import content_sha256, file_sha256

CONTENTS = {"a/1.json": b"{}", "a/1.wav": os.urandom(100_000), "/abs/2.txt": b"", f"{'long' * 60}/3.txt": b"x" * 513}


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "train-000.tar"
    write(path, CONTENTS)
    return path


def write(path, contents):
    with tarfile.open(path, "w") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_what_is_read_is_what_was_put_in(archive, tmp_path):
    files = list(list_archive(archive))
    assert [file.name_inside for file in files] == [name.lstrip("/") for name in CONTENTS]
    for file, content in zip(files, CONTENTS.values(), strict=True):
        (tmp_path / "plain").write_bytes(content)
        assert isinstance(file, Path)
        assert str(file).startswith(f"{archive}/")
        assert file.read_bytes() == content
        assert file.stat().st_size == len(content)
        assert file_problem(file) is None
        assert file_sha256(file) == content_sha256(file) == file_sha256(tmp_path / "plain")
        with file.open("rb") as opened:
            assert opened.read() == content
        with file.open("rb", buffering=0) as opened:
            assert os.pread(opened.fileno(), len(content), 0) == content
        with file.open("rb") as first, file.open("rb") as second:
            assert first.read(1) == second.read(1)  # each from its own place


def test_copies_and_pickles_are_the_same_file(archive):
    file = list(list_archive(archive))[1]
    for again in (copy.copy(file), copy.deepcopy(file), pickle.loads(pickle.dumps(file))):
        assert again == file
        assert hash(again) == hash(file)
        assert again.read_bytes() == file.read_bytes()


def test_a_path_that_is_derived_from_one_is_an_ordinary_path(archive):
    file = next(iter(list_archive(archive)))
    assert file.parent.parent == archive
    assert file.parent.parent.read_bytes() == archive.read_bytes()
    assert file_problem(file.parent) is not None
    assert file_problem(file.with_suffix(".wav")) is not None
    assert not (file.parent / "other").is_file()


def test_a_text_leads_back_to_the_file(archive):
    for file in list_archive(archive):
        assert find_file(Path(str(file))).read_bytes() == file.read_bytes()
    plain = Path(f"{archive}/a/none.wav")
    assert find_file(plain) is plain
    assert find_file(archive) is archive


def test_writing_is_refused(archive):
    file = next(iter(list_archive(archive)))
    with pytest.raises(io.UnsupportedOperation, match="not opened by 'w'"):
        file.open("w")


def test_an_archive_that_was_cut_is_told(archive):
    files = list(list_archive(archive))
    with archive.open("r+b") as opened:
        opened.truncate(files[1].place[0] + 10)
    with pytest.raises(OSError, match="its archive ends early"):
        files[1].read_bytes()
    with pytest.raises(InputError, match=r"expected a file, got its archive ends early"):
        file_sha256(files[1])
    with pytest.raises(InputError, match=r"train-000\.tar: expected an uncompressed tar archive, got"):
        list(list_archive(archive))


@pytest.mark.parametrize("content", [b"", b"no archive" * 100], ids=["empty", "something else"])
def test_what_is_no_archive_is_refused(tmp_path, content):
    path = tmp_path / "train.tar"
    path.write_bytes(content)
    with pytest.raises(InputError, match="expected an uncompressed tar archive"):
        list(list_archive(path))


def test_a_compressed_one_is_refused(tmp_path):
    path = tmp_path / "train.tar"
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("1.txt"), io.BytesIO())
    with pytest.raises(InputError, match=r"expected an uncompressed tar archive, got .*; write the archive again"):
        list(list_archive(path))


def test_links_and_folders_are_left_out(tmp_path):
    path = tmp_path / "train.tar"
    with tarfile.open(path, "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo(f"1.{kind.decode()}")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    assert list(list_archive(path)) == []
