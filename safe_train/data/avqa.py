"""Questions about clips and the images that belong to them, as AVQA and MUSIC-AVQA ask: one manifest entry each."""

from __future__ import annotations

import os
from pathlib import Path

from safe_train.data.clips import AudioExample, MissingClips, require_clips, separate_missing
from safe_train.data.manifest import Record, read_records, require_manifest, require_unique, resolve, set_folder
from safe_train.errors import InputError

_SET = "avqa"


def load_avqa(root: Path, split: str) -> list[AudioExample]:
    """Reads the questions of a split whose audio is there; warns, with count and names, of those whose audio is not.

    See :func:`read_avqa` for the files that are read.

    Raises:
        InputError: as :func:`read_avqa`, or no clip has its audio.
    """
    return require_clips(*read_avqa(root, split))


def read_avqa(root: Path, split: str) -> tuple[list[AudioExample], MissingClips]:
    """Reads the questions of a split, in the order of the file, and the clips that have no audio file.

    Tried in turn in ``root/avqa/``: ``avqa_train.jsonl``, ``avqa_train.json``, ``train.jsonl``, ``train.json``.

    An entry has ``id`` or ``sample_id``; ``question``; ``answers`` or ``answer``; ``audio`` or ``audio_path`` and, if
    it likes, ``image`` or ``image_path``, relative to the root or to ``root/avqa/``. A clip is called by its audio's
    path from the root, so that questions about one clip share the name.

    Raises:
        InputError: a file or field is missing or malformed, an id appears twice, an image is missing, or a path leaves
            the root.
    """
    folder = set_folder(root, _SET)
    manifest = require_manifest(folder, _SET, split)
    records = read_records(manifest)
    require_unique(records, [record.identifier("id", "sample_id") for record in records])
    return separate_missing([_example(root, folder, record) for record in records], manifest)


def _example(root: Path, folder: Path, record: Record) -> AudioExample:
    audio = resolve(root, folder, record.text("audio", "audio_path"), record.where)
    written = record.optional_text("image", "image_path")
    image = resolve(root, folder, written, record.where) if written else None
    if image is not None and not image.is_file():
        raise InputError(image, f"the image of {record.where}", "no such file", "put it there or drop the entry")
    return AudioExample(
        clip_id=Path(os.path.relpath(audio, root)).as_posix(),
        audio_path=audio,
        captions=record.texts("answers", "answer"),
        question=record.text("question"),
        image_path=image,
    )
