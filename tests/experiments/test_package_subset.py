"""Packing: every promised file, missing ones counted, nothing half-written, and the pack loads where it is taken."""

import json
import os
import shutil
import tarfile

import pytest

from experiments.overfitting import package_subset
from safe_train.data.datasets.pack import PackClips, PackQuestions, PackText
from safe_train.data.datasets.text import Text


def tree(root):
    """Content of every file by relative path."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def failing(make_pack, capsys, *arguments):
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        make_pack(*arguments)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture
def source(small_data, tmp_path):
    """A copy of the sources that a test may damage; its option for ``make_pack`` is ``--source-root``."""
    shutil.copytree(small_data, tmp_path / "source")
    return tmp_path / "source"


def test_the_pack_holds_what_the_format_promises(pack, manifests, small_data):
    files = tree(pack)
    clips, questions = (json.loads(path.read_text()) for path in manifests)
    assert {name for name in files if "/" not in name} == {
        "manifest.json", "subset_manifest.json", "captions.jsonl", "val_manifest.json", "README.txt",
        "missing_files.log",
    }  # fmt: skip
    assert json.loads(files["manifest.json"]) == json.loads(files["subset_manifest.json"]) == clips
    assert json.loads(files["val_manifest.json"]) == questions
    assert [json.loads(line) for line in files["captions.jsonl"].decode().splitlines()] == clips["entries"]
    for entry in clips["entries"]:
        name = entry["audio_relpath"]
        assert files[name] == (small_data / "audiocaps" / name).read_bytes()
    for entry in questions["entries"]:
        name = entry["image_filename"]
        assert files[f"images/{name}"] == (small_data / "vqa" / "val2014" / name).read_bytes()
    assert files["missing_files.log"] == b""
    assert b"Clips: 12\n" in files["README.txt"]


def test_the_pack_loads(pack):
    assert len(PackClips().records(pack, "")) == 12
    assert len(PackQuestions().records(pack, "")) == 20


def test_text_only_rows_come_along(make_pack, tmp_path):
    """Every form and field that is read, in the order of the list; what is not read stays behind."""
    entries = [
        {"id": 5, "instruction": "Add.", "input": "2, 2", "output": "4", "type": "sum", "cluster": "c", "note": "x"},
        {"messages": [{"role": "user", "content": "ü?"}, {"role": "assistant", "content": "a"}]},
        {"id": "d", "text": "a long document " * 200},
    ]
    listed = tmp_path / "text/val.json"
    listed.parent.mkdir()
    listed.write_text(json.dumps(entries))
    pack = make_pack(tmp_path / "pack", "--text-list", str(listed))
    assert PackText().records(pack, "") == Text().records(tmp_path, "val")
    assert "note" not in (pack / "text.jsonl").read_text()
    assert "Text-only rows: 3\n" in (pack / "README.txt").read_text()


def test_a_list_of_text_that_cannot_be_read_leaves_no_pack(make_pack, tmp_path, capsys):
    listed = tmp_path / "val.json"
    listed.write_text(json.dumps([{"prompt": "?"}]))
    line = failing(make_pack, capsys, tmp_path / "pack", "--text-list", str(listed))
    assert "expected the field answers" in line
    assert not (tmp_path / "pack").exists()


def test_packing_twice_gives_the_same_files(pack, make_pack, tmp_path):
    assert tree(make_pack(tmp_path / "again")) == tree(pack)


def test_a_packed_pack_loads_elsewhere(pack, tmp_path):
    with tarfile.open(tmp_path / "pack.tgz", "w:gz") as archive:
        archive.add(pack, "data_pack")
    with tarfile.open(tmp_path / "pack.tgz") as archive:
        archive.extractall(tmp_path / "elsewhere", filter="data")
    moved = tmp_path / "elsewhere" / "data_pack"
    assert tree(moved) == tree(pack)
    assert all(clip.audio_path.is_relative_to(moved) for clip in PackClips().records(moved, ""))


def test_nothing_names_the_place_where_it_was_made(pack, small_data):
    assert not [name for name, content in tree(pack).items() if os.fsencode(small_data) in content]


def test_an_older_pack_is_replaced_whole(make_pack, tmp_path):
    destination = make_pack(tmp_path / "pack")
    (destination / "audio" / "train" / "stale.wav").write_bytes(b"")
    make_pack(destination)
    assert not (destination / "audio" / "train" / "stale.wav").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["pack"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_no_pack_is_not_replaced(make_pack, tmp_path, capsys, kind):
    destination = tmp_path / "mine"
    kept = destination / "thesis.txt" if kind == "folder" else destination
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("years of work")
    assert "expected an older pack or no folder" in failing(make_pack, capsys, destination)
    assert kept.read_text() == "years of work"


@pytest.mark.parametrize("layout", ["images", "images/val2014", "val2014"])
def test_images_are_found_in_the_usual_layouts(make_pack, pack, source, tmp_path, layout):
    images = (source / "vqa" / "val2014").rename(source / "vqa" / "moved")
    (source / "vqa" / layout).parent.mkdir(exist_ok=True)
    images.rename(source / "vqa" / layout)
    assert tree(make_pack(tmp_path / "pack", "--source-root", source / "audiocaps")) == tree(pack)


def test_missing_files_are_counted_listed_and_left_out(make_pack, manifests, source, tmp_path, capsys, caplog):
    clips, questions = (json.loads(path.read_text()) for path in manifests)
    audio, image = clips["entries"][3]["audio_relpath"], questions["entries"][0]["image_filename"]
    (source / "audiocaps" / audio).unlink()
    (source / "vqa" / "val2014" / image).unlink()
    capsys.readouterr()
    destination = make_pack(tmp_path / "pack", "--source-root", source / "audiocaps")
    assert "WARNING 2 files were not found" in capsys.readouterr().out
    assert (destination / "missing_files.log").read_text() == f"{audio}\nimages/{image}\n"
    captions = (destination / "captions.jsonl").read_text().splitlines()
    assert audio not in [json.loads(line)["audio_relpath"] for line in captions]
    assert len(captions) == 11
    assert len(json.loads((destination / "manifest.json").read_text())["entries"]) == 12
    assert len(PackClips().records(destination, "")) == 11
    assert "1 of 12 clips have no audio file" in caplog.text


def test_a_source_without_any_clip(make_pack, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    line = failing(make_pack, capsys, tmp_path / "pack", "--source-root", tmp_path / "empty")
    assert "expected audio files of the manifest, got none of 12; mend --source-root" in line
    assert not (tmp_path / "pack").exists()


def change_entry(path, target, **fields):
    content = json.loads(path.read_text())
    content["entries"][1] |= fields
    target.write_text(json.dumps(content))
    return target


@pytest.mark.parametrize(
    "written", ["../vqa/secret.wav", "/etc/secret.wav", "audio/train/../../manifest.json", "audio/val/a.wav"]
)
def test_audio_paths_that_leave_their_folder_are_refused(make_pack, manifests, tmp_path, capsys, written):
    changed = change_entry(manifests[0], tmp_path / "clips.json", audio_relpath=written)
    line = failing(make_pack, capsys, tmp_path / "pack", "--manifest", changed)
    assert f"{changed}: entries[1]: expected a path in " in line
    assert not (tmp_path / "pack").exists()


@pytest.mark.parametrize("written", ["../secret.png", "/etc/secret.png", "a/../../secret.png"])
def test_image_names_that_leave_their_folder_are_refused(make_pack, manifests, tmp_path, capsys, written):
    changed = change_entry(manifests[1], tmp_path / "questions.json", image_filename=written)
    line = failing(make_pack, capsys, tmp_path / "pack", "--val-manifest", changed)
    assert f"{changed}: entries[1]: expected a path in " in line
    assert not (tmp_path / "pack").exists()


def test_a_full_disk_leaves_the_older_pack_and_nothing_else(make_pack, tmp_path, capsys, monkeypatch):
    destination = make_pack(tmp_path / "pack")
    before = tree(destination)
    copied = []

    def fill_up(source, target):
        copied.append(target)
        if len(copied) == 5:
            raise OSError(28, os.strerror(28))
        return shutil.copyfile(source, target)

    monkeypatch.setattr(shutil, "copy2", fill_up)
    assert "No space left on device" in failing(make_pack, capsys, destination)
    assert tree(destination) == before
    assert [path.name for path in tmp_path.iterdir()] == ["pack"]


def test_without_a_list_of_clips_the_way_to_one_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        package_subset.main([])
    assert "make it with python -m experiments.overfitting.create_subset_manifest" in capsys.readouterr().err


def test_a_default_list_of_questions_is_used_if_it_is_there(small_data, manifests, tmp_path, monkeypatch):
    """The commands without any option, in a folder laid out as their defaults expect."""
    (tmp_path / "data").symlink_to(small_data)
    folder = tmp_path / "experiments" / "overfitting"
    folder.mkdir(parents=True)
    shutil.copy(manifests[0], folder)
    monkeypatch.chdir(tmp_path)
    package_subset.main([])
    assert not (folder / "data_pack" / "val_manifest.json").exists()
    shutil.copy(manifests[1], folder)
    package_subset.main([])
    assert len(PackQuestions().records(folder / "data_pack", "")) == 20
