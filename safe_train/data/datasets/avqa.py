"""Questions about clips and the images that belong to them: the official MUSIC-AVQA files, or one entry for each."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

from safe_train.audio.folder import audio_files_by_stem
from safe_train.data.datasets.clips import AudioRecord, MissingClips, require_clips, separate_missing
from safe_train.data.datasets.manifest import (
    Record,
    encodable,
    find_manifest,
    manifest_names,
    read_records,
    require_unique,
    require_utf8,
    resolve,
    set_folder,
    without_placeholder,
)
from safe_train.errors import InputError
from safe_train.io.files import file_problem
from safe_train.io.messages import value_shown

logger = logging.getLogger(__name__)

_SET = "avqa"
_PLACEHOLDER = re.compile(r"<[^<>]+>")


def load_avqa(root: Path, split: str) -> list[AudioRecord]:
    """Reads the questions of a split whose audio is there; warns, with count and names, of those whose audio is not.

    See :func:`read_avqa` for the files that are read.

    Raises:
        InputError: as :func:`read_avqa`, or no clip has its audio.
    """
    return require_clips(*read_avqa(root, split))


def read_avqa(root: Path, split: str) -> tuple[list[AudioRecord], MissingClips]:
    """Reads the questions of a split, in the order of the file, and the clips that have no audio file.

    Tried in turn in ``root/avqa/``: the official ``avqa-train.json``; then ``avqa_train.jsonl``, ``avqa_train.json``,
    ``train.jsonl``, ``train.json``.

    An entry has ``id`` or ``sample_id``; ``question``; ``answers`` or ``answer``; ``audio`` or ``audio_path`` and, if
    it likes, ``image`` or ``image_path``, relative to the root or to ``root/avqa/``. A clip is called by its audio's
    path from the root, so that questions about one clip share the name.

    An entry of MUSIC-AVQA has ``question_id``; ``video_id``; ``question_content``, whose placeholders (``<Object>``)
    the ``templ_values`` replace in turn; and ``anser``, as the files spell it. Its audio is
    ``audio/train/<video_id>``, ``audio/<video_id>`` or ``audio_wav/<video_id>`` with any audio suffix, and its image
    the middle one of ``frames/<video_id>/``, if that folder is there. Questions marked ``question_deleted`` are left
    out, and a warning tells how many. Source: Li et al. 2022, arXiv:2203.14072, and its annotation files.

    Raises:
        InputError: a file or field is missing or malformed, an id appears twice, an image is missing, or a path leaves
            the root.
    """
    folder = set_folder(root, _SET)
    manifest = find_avqa(folder, split)
    if manifest is None:
        expected = " or ".join((_official_name(split), *manifest_names(_SET, split)))
        raise InputError(folder, expected, "none of them", f"put one there or name a split other than {split!r}")
    records = _without_deleted(read_records(manifest), manifest)
    require_unique(records, [record.identifier("id", "sample_id", "question_id") for record in records])
    videos = audio_files_by_stem(folder / name for name in (f"audio/{split}", "audio", "audio_wav"))
    return separate_missing([_example(root, folder, record, videos) for record in records], manifest)


def find_avqa(folder: Path, split: str) -> Path | None:
    """The list of a split that :func:`read_avqa` reads from the set's folder, or None."""
    official = folder / _official_name(split)
    return official if file_problem(official) is None else find_manifest(folder, _SET, split)


def avqa_question(record: Record, *, has_image: bool = False) -> str:
    """The question of an entry, its placeholders filled in, and without that of its image.

    Raises:
        InputError: a field is missing or malformed, or there are more or fewer values than placeholders.
    """
    if record.optional("question_content") is None:
        return record.question("question", has_image=has_image)
    template = record.text("question_content")
    values = iter(_template_values(record, len(_PLACEHOLDER.findall(template))))
    question = encodable(_PLACEHOLDER.sub(lambda _: next(values), template), record.where)
    return without_placeholder(question, record.where, has_image=has_image)


def _official_name(split: str) -> str:
    return f"avqa-{split}.json"


def _without_deleted(records: list[Record], manifest: Path) -> list[Record]:
    kept = [record for record in records if not record.optional("question_deleted")]
    if len(kept) < len(records):
        logger.warning("%s: %d of %d questions are marked as deleted", manifest, len(records) - len(kept), len(records))
    return kept


def _template_values(record: Record, count: int) -> list[str]:
    """The values of the placeholders; the official files write the list as a text that holds JSON."""
    written = record.optional("templ_values")
    try:
        values = json.loads(written) if isinstance(written, str) else written or []
    except (ValueError, RecursionError):  # no JSON, a number of thousands of digits, or lists that are nested too deep
        values = None
    if not isinstance(values, list) or len(values) != count or not all(isinstance(value, str) for value in values):
        expected = f"templ_values to be a list of {count} texts, one for each placeholder"
        raise InputError(record.where, expected, value_shown(written), "mend the entry")
    return values


def _example(root: Path, folder: Path, record: Record, videos: Mapping[str, Path]) -> AudioRecord:
    audio = _audio(root, folder, record, videos)
    image = _image(root, folder, record)
    if image is not None and (problem := file_problem(image)):
        raise InputError(image, f"the image of {record.where}", problem, "put it there or drop the entry")
    return AudioRecord(
        clip_id=Path(os.path.relpath(audio, root)).as_posix(),
        audio_path=audio,
        captions=record.references("answers", "answer", "anser"),
        question=avqa_question(record, has_image=image is not None),
        image_path=image,
    )


def _audio(root: Path, folder: Path, record: Record, videos: Mapping[str, Path]) -> Path:
    """The written path, or else the video's file, or else the path where it would be."""
    if record.optional("video_id") is None or record.optional("audio", "audio_path") is not None:
        return resolve(root, folder, record.text("audio", "audio_path"), record.where)
    video = record.identifier("video_id")
    expected = resolve(root, folder, f"{_SET}/audio/{video}.wav", record.where)
    return videos.get(video, expected)


def _image(root: Path, folder: Path, record: Record) -> Path | None:
    written = record.optional_text("image", "image_path")
    if written:
        return resolve(root, folder, written, record.where)
    if record.optional("video_id") is None:
        return None
    frames = resolve(root, folder, f"{_SET}/frames/{record.identifier('video_id')}", record.where)
    images = sorted(path for path in frames.iterdir() if file_problem(path) is None) if frames.is_dir() else []
    if not images:
        return None
    return require_utf8(images[len(images) // 2], f"the image of {record.where}")
