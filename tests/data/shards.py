"""Writes the examples of a data root into shards and tables, as other projects write them."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import torch

from safe_train.audio.waveform import load_waveform
from safe_train.data.datasets.audiocaps import AudioCaps
from safe_train.data.datasets.vqa import VQA
from safe_train.data.image import load_image


def write_shard(path, files):
    """An archive of these files: pairs of a name and bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_shards(folder, stem, samples, per_shard):
    """Numbered archives of so many samples each; a sample is a key, fields, and paths of its media."""
    parts = [samples[start : start + per_shard] for start in range(0, len(samples), per_shard)]
    for number, part in enumerate(parts):
        files = [
            (f"{key}{suffix}", content)
            for key, fields, media in part
            for suffix, content in (
                *((path.suffix, path.read_bytes()) for path in media),
                (".json", json.dumps(fields).encode()),
            )
        ]
        write_shard(folder / f"{stem}-{number:06d}.tar", files)


def samples_of(root, split):
    """The clips and questions of a data root: key, fields and media of each."""
    clips = [
        (f"{place:05d}", {"id": r.clip_id, "answers": r.captions, "question": r.question}, [r.audio_path])
        for place, r in enumerate(AudioCaps().records(root, split))
    ]
    questions = [
        (
            f"{place:05d}",
            {
                "question_id": r.question_id, "image_id": r.image_id, "question": r.question, "answers": r.answers,
                "question_type": r.question_type, "answer_type": r.answer_type,
            },
            [r.image_path],
        )
        for place, r in enumerate(VQA().records(root, split))
    ]  # fmt: skip
    return {"audiocaps": clips, "vqa": questions}


def as_shards(root: Path, target: Path, per_shard: int = 7) -> Path:
    """The clips and questions of a data root in shards; the text-only examples as they are."""
    for split in ("train", "val"):
        for name, samples in samples_of(root, split).items():
            write_shards(target / name, split, samples, per_shard)
    return with_text(root, target)


def as_files(root: Path, target: Path) -> Path:
    """The same as files, one for each question as in shards, with a list of their entries."""
    for split in ("train", "val"):
        for name, samples in samples_of(root, split).items():
            entries = []
            for key, fields, (path,) in samples:
                written = target / name / split / f"{key}{path.suffix}"
                written.parent.mkdir(parents=True, exist_ok=True)
                written.write_bytes(path.read_bytes())
                kind = "audio" if name == "audiocaps" else "image"
                entries.append(json.dumps(fields | {kind: str(written.relative_to(target))}))
            (target / name / f"{split}.jsonl").write_text("".join(f"{entry}\n" for entry in entries))
    return with_text(root, target)


def table_of(samples, kind, *, with_paths=True):
    """A data set of samples, their media as bytes in a column of the feature's type."""
    from datasets import Audio, Dataset, Image

    rows = [
        fields | {kind: {"bytes": path.read_bytes(), "path": path.name if with_paths else None}}
        for _, fields, (path,) in samples
    ]
    return Dataset.from_list(rows).cast_column(kind, {"audio": Audio, "image": Image}[kind](decode=False))


def as_tables(root: Path, target: Path) -> Path:
    """The clips of a data root as Parquet files, two for each split, and its questions as saved data sets."""
    for split in ("train", "val"):
        samples = samples_of(root, split)
        clips, folder = table_of(samples["audiocaps"], "audio"), target / "audiocaps" / "data"
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(2):
            clips.shard(2, number, contiguous=True).to_parquet(folder / f"{split}-0000{number}-of-00002.parquet")
        table_of(samples["vqa"], "image").save_to_disk(target / "vqa" / split)
    return with_text(root, target)


def assert_same_examples(packed, plain):
    """Texts and ids are equal, clips and images to the last bit."""
    assert [replace(e, audio=None, image=None) for e in packed] == [replace(e, audio=None, image=None) for e in plain]
    for one, other in zip(packed, plain, strict=True):
        assert (one.audio is None, one.image is None) == (other.audio is None, other.image is None)
        if one.audio is not None:
            assert torch.equal(load_waveform(one.audio, 16_000), load_waveform(other.audio, 16_000))
        if one.image is not None:
            assert load_image(one.image).tobytes() == load_image(other.image).tobytes()


def with_text(root, target):
    if (root / "text").is_dir():
        (target / "text").symlink_to(root / "text")
    return target
