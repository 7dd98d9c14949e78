"""The procedural data on disk: official formats, the same bytes everywhere, splits apart, whole or absent."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from safe_train.data.audiocaps import load_audiocaps
from safe_train.data.vqa import load_vqa
from safe_train.embedded import dataset
from safe_train.embedded.dataset import DatasetSizes, embedded_data_root, write_dataset
from safe_train.embedded.questions import QUESTION_TYPES
from safe_train.errors import InputError
from tests.files import assert_same_bytes

TINY = DatasetSizes(train_questions=6, val_questions=5, train_clips=4, val_clips=3)
SPLITS = ("train", "val")


def digests(root: Path) -> dict[str, str]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_bytes_each_time(tmp_path):
    for name in ("a", "b"):
        write_dataset(tmp_path / name, TINY)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_more_rows_begin_with_the_same_rows(tmp_path, small_data):
    """A split of another size is a prefix, so the figures of a large and a small one can be compared."""
    write_dataset(tmp_path, TINY)
    for path in (*tmp_path.rglob("*.png"), *tmp_path.rglob("*.wav")):
        assert_same_bytes(path, small_data / path.relative_to(tmp_path))


@pytest.mark.parametrize(("split", "questions", "clips"), [("train", 60, 40), ("val", 40, 24)])
def test_the_readers_of_the_official_formats_read_all_of_it(small_data, split, questions, clips):
    vqa, audiocaps = load_vqa(small_data, split), load_audiocaps(small_data, split)
    assert (len(vqa), len(audiocaps)) == (questions, clips)
    for example in vqa:
        assert len(example.answers) == 10
        assert len(set(example.answers)) == 1
        assert example.question_type in QUESTION_TYPES
    assert (small_data / "vqa" / f"v2_OpenEnded_mscoco_{split}2014_questions.json").is_file()
    assert (small_data / "vqa" / f"v2_mscoco_{split}2014_annotations.json").is_file()
    assert (small_data / "audiocaps" / f"{split}.csv").is_file()


def test_odd_numbers_of_questions_are_met_exactly(tmp_path):
    write_dataset(tmp_path, TINY)
    assert len(load_vqa(tmp_path, "val")) == 5


def test_splits_share_no_image_and_no_clip(small_data):
    pixels = {
        split: {Image.open(example.image_path).tobytes() for example in load_vqa(small_data, split)} for split in SPLITS
    }
    samples = {
        split: {soundfile.read(example.audio_path)[0].tobytes() for example in load_audiocaps(small_data, split)}
        for split in SPLITS
    }
    for kind in (pixels, samples):
        assert not kind["train"] & kind["val"]
    assert (len(pixels["train"]), len(samples["train"])) == (30, 40)  # no two alike in a split either


def test_the_split_for_tuning_shares_nothing_with_the_others_and_changes_neither(tmp_path, small_data):
    sizes = replace(TINY, tune_questions=60, tune_clips=40)
    write_dataset(tmp_path, sizes)
    others = [digest for path, digest in digests(small_data).items() if path.endswith((".png", ".wav"))]
    tune = {path: digest for path, digest in digests(tmp_path).items() if "tune" in path}
    media = [digest for path, digest in tune.items() if path.endswith((".png", ".wav"))]
    assert len(media) == len(set(media)) == 30 + 40
    assert not set(media) & set(others)
    assert (len(load_vqa(tmp_path, "tune")), len(load_audiocaps(tmp_path, "tune"))) == (60, 40)
    write_dataset(tmp_path / "without", TINY)
    assert digests(tmp_path / "without").items() <= digests(tmp_path).items() - tune.items()
    names = {example.clip_id for split in ("train", "val", "tune") for example in load_audiocaps(tmp_path, split)}
    assert len(names) == TINY.train_clips + TINY.val_clips + 40


def test_splits_draw_their_digits_from_different_scans(tmp_path, monkeypatch):
    drawn: dict[str, set[int]] = {}
    sample = dataset.sample_scene

    def watched(rng: np.random.Generator, scans: np.ndarray):
        scene = sample(rng, scans)
        drawn.setdefault("val" if scans[0] == 0 else "train", set()).add(scene.digit_scan)
        return scene

    monkeypatch.setattr(dataset, "sample_scene", watched)
    write_dataset(tmp_path, DatasetSizes(train_questions=200, val_questions=200, train_clips=2, val_clips=2))
    assert (drawn["train"] & drawn["val"]) == {-1}  # scenes without a digit
    assert min(len(scans) for scans in drawn.values()) > 10


def test_it_is_written_once(tmp_path, monkeypatch):
    monkeypatch.setenv("SAFE_CACHE", str(tmp_path))
    root = embedded_data_root(TINY)
    assert root.parent == tmp_path
    monkeypatch.setattr(dataset, "write_dataset", None)
    assert embedded_data_root(TINY) == root


def test_other_sizes_and_other_generators_have_other_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("SAFE_CACHE", str(tmp_path))
    assert embedded_data_root(TINY) != embedded_data_root(DatasetSizes(5, 5, 4, 3))


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), soundfile.LibsndfileError(2), KeyboardInterrupt()]
)
def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch, error):
    monkeypatch.setenv("SAFE_CACHE", str(tmp_path))

    def fails(*_args, **_options):
        raise error

    monkeypatch.setattr(dataset.soundfile, "write", fails)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else InputError):
        embedded_data_root(TINY)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_told_in_one_line(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    monkeypatch.setenv("SAFE_CACHE", str(blocked))
    with pytest.raises(InputError, match=r"expected a folder that can be written, got .*; set SAFE_CACHE to another"):
        embedded_data_root(TINY)


def test_a_process_that_was_slower_takes_the_folder_of_the_faster(tmp_path, monkeypatch):
    monkeypatch.setenv("SAFE_CACHE", str(tmp_path))
    write = dataset.write_dataset

    def overtaken(root: Path, sizes: DatasetSizes) -> None:
        write(root, sizes)
        finished = root.parent / root.name.rpartition("-")[0]
        if not finished.exists():
            write(finished, sizes)

    monkeypatch.setattr(dataset, "write_dataset", overtaken)
    root = embedded_data_root(TINY)
    assert list(tmp_path.iterdir()) == [root]
