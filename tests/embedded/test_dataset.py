"""The procedural data on disk: official formats, the same bytes everywhere, splits apart, whole or absent."""

import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from safe_train.data.datasets.audiocaps import AudioCaps
from safe_train.data.datasets.vqa import VQA
from safe_train.embedded import dataset
from safe_train.embedded.dataset import DatasetSizes, embedded_data_root, write_dataset
from safe_train.embedded.questions import QUESTION_TYPES
from safe_train.embedded.text_skills import SKILLS
from safe_train.errors import InputError
from tests.files import assert_same_bytes
from tests.tolerances import CLIP_RMS

TINY = DatasetSizes(
    train_questions=6,
    val_questions=5,
    train_clips=4,
    val_clips=3,
    train_text=20,
    val_text=18,
    train_documents=3,
    val_documents=2,
)
SPLITS = ("train", "val")

# What the generator wrote before it wrote text (commit 893f150): the digest of the questions, annotations, captions and
# pixels, and the root mean square of each clip.
BEFORE_TEXT = {
    "train": (
        "752f38e450f705b80452441d4e1fc0543600b269ee976f348967e8b9ef667351",
        [0.063952, 0.677648, 0.452578, 0.058427],
    ),
    "val": ("10640ab23c4e462d52edf38478f8e7b55b15eed0ff7f355c45bbeea259b859ce", [0.039546, 0.270547, 0.048004]),
}


@pytest.fixture(scope="module")
def text_rows(tmp_path_factory) -> dict[str, list[dict[str, str]]]:
    """The rows of ``text/`` in the default sizes, by split."""
    root = tmp_path_factory.mktemp("text")
    write_dataset(root, DatasetSizes(train_questions=2, val_questions=2, train_clips=2, val_clips=2))
    lines = {split: (root / "text" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines() for split in SPLITS}
    return {split: [json.loads(line) for line in lines[split]] for split in SPLITS}


def digests(root: Path) -> dict[str, str]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_bytes_each_time(tmp_path):
    for name in ("a", "b"):
        write_dataset(tmp_path / name, TINY)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


@pytest.mark.parametrize("split", SPLITS)
def test_images_and_clips_are_those_of_the_generator_without_text(tmp_path, split):
    """Not the bytes of the files: a compressor may change, and a sine differs in its last bit between processors."""
    write_dataset(tmp_path, TINY)
    vqa, audiocaps = tmp_path / "vqa", tmp_path / "audiocaps"
    digest = hashlib.sha256()
    for path in [*sorted(vqa.glob(f"*{split}2014*.json")), audiocaps / f"{split}.csv"]:
        digest.update(path.read_bytes())
    for path in sorted((vqa / f"{split}2014").iterdir()):
        digest.update(np.asarray(Image.open(path)).tobytes())
    clips = [soundfile.read(path)[0] for path in sorted((audiocaps / "audio" / split).iterdir())]
    assert digest.hexdigest() == BEFORE_TEXT[split][0]
    rms = [float(np.sqrt(np.mean(np.square(clip)))) for clip in clips]
    assert rms == pytest.approx(BEFORE_TEXT[split][1], abs=CLIP_RMS)


def test_more_rows_begin_with_the_same_rows(tmp_path, small_data):
    """A split of another size is a prefix, so the figures of a large and a small one can be compared."""
    write_dataset(tmp_path, TINY)
    for path in (*tmp_path.rglob("*.png"), *tmp_path.rglob("*.wav")):
        assert_same_bytes(path, small_data / path.relative_to(tmp_path))


@pytest.mark.parametrize(("split", "questions", "clips"), [("train", 60, 40), ("val", 40, 24)])
def test_the_readers_of_the_official_formats_read_all_of_it(small_data, split, questions, clips):
    vqa, audiocaps = VQA().records(small_data, split), AudioCaps().records(small_data, split)
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
    assert len(VQA().records(tmp_path, "val")) == 5


def test_splits_share_no_image_and_no_clip(small_data):
    pixels = {
        split: {Image.open(example.image_path).tobytes() for example in VQA().records(small_data, split)}
        for split in SPLITS
    }
    samples = {
        split: {soundfile.read(example.audio_path)[0].tobytes() for example in AudioCaps().records(small_data, split)}
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
    assert (len(VQA().records(tmp_path, "tune")), len(AudioCaps().records(tmp_path, "tune"))) == (60, 40)
    write_dataset(tmp_path / "without", TINY)
    assert digests(tmp_path / "without").items() <= digests(tmp_path).items() - tune.items()
    names = {example.clip_id for split in ("train", "val", "tune") for example in AudioCaps().records(tmp_path, split)}
    assert len(names) == TINY.train_clips + TINY.val_clips + 40


def test_the_text_for_tuning_shares_nothing_with_the_others(tmp_path, text_rows):
    write_dataset(tmp_path, replace(TINY, tune_text=250, tune_documents=50))
    tune = [json.loads(line) for line in (tmp_path / "text" / "tune.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(tune) == 300
    for field in ("id", "prompt", "cluster", "text"):
        found = {row[field] for row in tune if field in row}
        assert found
        assert not found & {row[field] for split in SPLITS for row in text_rows[split] if field in row}


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


@pytest.mark.parametrize("split", SPLITS)
def test_text_is_questions_of_all_types_and_documents(text_rows, split):
    questions = [row for row in text_rows[split] if "prompt" in row]
    documents = [row for row in text_rows[split] if "text" in row]
    assert (len(questions), len(documents)) == (600, 100)
    assert questions + documents == text_rows[split]
    counts = Counter(row["type"] for row in questions)
    assert set(counts) == set(SKILLS)
    assert min(counts.values()) >= 40
    assert all(set(row) == {"id", "prompt", "answer", "type", "cluster"} for row in questions)
    assert all(set(row) == {"id", "text"} for row in documents)
    assert len({row["id"] for row in text_rows[split]}) == 700
    assert len({row.get("prompt") or row["text"] for row in text_rows[split]}) == 700  # none twice


def test_splits_share_no_question_nothing_asked_for_and_no_document(text_rows):
    for field in ("id", "prompt", "cluster", "text"):
        train, val = ({row[field] for row in text_rows[split] if field in row} for split in SPLITS)
        assert train
        assert val
        assert not train & val, field


def test_the_splits_would_overlap_if_a_question_were_in_both(text_rows, monkeypatch, tmp_path):
    """Negative control."""
    monkeypatch.setattr(dataset.TextQuestion, "split", property(lambda _self: "val"))
    monkeypatch.setattr(dataset, "split_of", lambda _key: "val")
    (tmp_path / "text").mkdir()
    dataset._write_text(tmp_path / "text", "val", 600, 100)
    lines = (tmp_path / "text" / "val.jsonl").read_text(encoding="utf-8").splitlines()
    clusters = {json.loads(line).get("cluster") for line in lines}
    assert clusters & {row["cluster"] for row in text_rows["train"] if "cluster" in row}


def test_fewer_text_rows_are_the_first_of_more(tmp_path, text_rows):
    write_dataset(tmp_path, TINY)
    for split, questions, documents in (("train", 20, 3), ("val", 18, 2)):
        rows = [json.loads(line) for line in (tmp_path / "text" / f"{split}.jsonl").read_text().splitlines()]
        assert rows == text_rows[split][:questions] + text_rows[split][600 : 600 + documents]


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
