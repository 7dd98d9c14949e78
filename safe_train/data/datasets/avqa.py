"""Questions about clips and the images that belong to them: the official MUSIC-AVQA files, or a manifest."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

from safe_train.audio.folder import index_audio_files
from safe_train.data.datasets.clips import MissingClips, separate_missing
from safe_train.data.datasets.entry_scan import EntryFields, EntryScan
from safe_train.data.datasets.issues import IssueKind, ListedRecord
from safe_train.data.datasets.manifest import (
    Record,
    optional_file,
    read_records,
    require_encodable,
    require_unique,
    require_utf8,
    required_file,
    resolve,
    strip_placeholder,
)
from safe_train.data.datasets.reader import AudioReader
from safe_train.data.datasets.records import AudioRecord
from safe_train.data.example import CAPTION
from safe_train.errors import InputError
from safe_train.io.files import file_problem
from safe_train.io.messages import value_shown

logger = logging.getLogger(__name__)

_PLACEHOLDER = re.compile(r"<[^<>]+>")


class AVQA(AudioReader):
    """Questions about clips: MUSIC-AVQA, or your own list.

    Tried in turn in ``root/avqa/``: the official ``avqa-train.json``; then ``avqa_train.jsonl``, ``avqa_train.json``,
    ``train.jsonl``, ``train.json``.

    An entry has ``id`` or ``sample_id``; ``question``; ``answers`` or ``answer``; ``audio`` or ``audio_path`` and,
    optionally, ``image`` or ``image_path``, relative to the root or to ``root/avqa/``. A clip's id is its audio's
    path from the root, so that questions about one clip share the name.

    An entry of MUSIC-AVQA has ``question_id``; ``video_id``; ``type``, such as ``["Audio-Visual", "Temporal"]``, by
    which accuracy is broken down; ``question_content``, whose placeholders (``<Object>``) the ``templ_values`` replace
    in turn; and ``anser``, as the files spell it. Its audio is
    ``audio/train/<video_id>``, ``audio/<video_id>`` or ``audio_wav/<video_id>`` with any audio suffix, and its image
    the middle one of ``frames/<video_id>/``, if that folder is there. Questions marked ``question_deleted`` are left
    out, and a warning counts them. Source: Li et al. 2022, arXiv:2203.14072, and its annotation files.
    """

    name = "avqa"
    fields = EntryFields(
        identifier=("id", "sample_id", "question_id"),
        answers=("answers", "answer", "anser"),
        required=("audio",),
        audio_id=("video_id",),
    )

    def find_manifest(self, root: Path, split: str) -> Path | None:
        """The official list, whose entries are like a manifest's, or else a manifest."""
        official = root / self.name / _official_name(split)
        return official if file_problem(official) is None else super().find_manifest(root, split)

    def read(self, root: Path, split: str) -> tuple[list[AudioRecord], MissingClips]:
        """Reads the questions of a split, in the order of the file, and the clips that have no audio file.

        Raises:
            InputError: a file or field is missing or malformed, an id appears twice, an image is missing, or a path
                leaves the root.
        """
        manifest = self.require_manifest(root, split, _official_name(split))
        folder = root / self.name
        entries = _drop_deleted(read_records(manifest), manifest)
        require_unique(entries, [entry.identifier(*self.fields.identifier) for entry in entries])
        videos = index_audio_files(folder / name for name in (f"audio/{split}", "audio", "audio_wav"))
        return separate_missing([self._read_entry(root, entry, videos) for entry in entries], manifest)

    def question(self, record: Record, *, has_image: bool) -> str:
        """The question of an entry, its placeholders filled in, and without that of its image.

        Raises:
            InputError: a field is missing or malformed, or there are more or fewer values than placeholders.
        """
        if record.optional("question_content") is None:
            return record.question(*self.fields.question, has_image=has_image)
        template = record.text("question_content")
        values = iter(_template_values(record, len(_PLACEHOLDER.findall(template))))
        question = require_encodable(_PLACEHOLDER.sub(lambda _: next(values), template), record.where)
        return strip_placeholder(question, record.where, has_image=has_image)

    def _read_entry(self, root: Path, entry: Record, videos: Mapping[str, Path]) -> AudioRecord:
        audio = self._find_audio(root, entry, videos)
        image = self._find_image(root, entry)
        if image is not None and (problem := file_problem(image)):
            raise InputError(image, f"the image of {entry.where}", problem, "put it there or drop the entry")
        return AudioRecord(
            clip_id=Path(os.path.relpath(audio, root)).as_posix(),
            audio_path=audio,
            captions=entry.references(*self.fields.answers),
            question=self.question(entry, has_image=image is not None),
            image_path=image,
            question_type=_read_type(entry),
        )

    def scan_entry(self, root: Path, entry: EntryScan) -> ListedRecord:
        """What of an entry can be read; its type may be wrong, too."""
        entry.take(IssueKind.ENTRY, lambda: _read_type(entry.record))
        return super().scan_entry(root, entry)

    def _find_audio(self, root: Path, entry: Record, videos: Mapping[str, Path]) -> Path:
        """The written path, or else the video's file, or else the path where it would be."""
        folder = root / self.name
        if entry.optional("video_id") is None or entry.optional(*self.fields.audio) is not None:
            return required_file(entry, self.fields.audio, root, folder)
        video = entry.identifier("video_id")
        expected = resolve(root, folder, f"{self.name}/audio/{video}.wav", entry.where)
        return videos.get(video, expected)

    def _find_image(self, root: Path, entry: Record) -> Path | None:
        """The written path, or else the middle frame of the video, or None."""
        folder = root / self.name
        if found := optional_file(entry, self.fields.image, root, folder):
            return found
        if entry.optional("video_id") is None:
            return None
        frames = resolve(root, folder, f"{self.name}/frames/{entry.identifier('video_id')}", entry.where)
        images = sorted(path for path in frames.iterdir() if file_problem(path) is None) if frames.is_dir() else []
        if not images:
            return None
        return require_utf8(images[len(images) // 2], f"the image of {entry.where}")


def _official_name(split: str) -> str:
    return f"avqa-{split}.json"


def _drop_deleted(records: list[Record], manifest: Path) -> list[Record]:
    kept = [record for record in records if not record.optional("question_deleted")]
    if len(kept) < len(records):
        logger.warning("%s: %d of %d questions are marked as deleted", manifest, len(records) - len(kept), len(records))
    return kept


def _template_values(record: Record, count: int) -> list[str]:
    """The values of the placeholders."""
    values = _read_texts(record, "templ_values")
    if values is None or len(values) != count:
        expected = f"templ_values to be a list of {count} texts, one for each placeholder"
        raise InputError(record.where, expected, value_shown(record.optional("templ_values")), "mend the entry")
    return values


def _read_type(record: Record) -> str:
    """The type of a question of MUSIC-AVQA, ``Audio Counting`` for ``["Audio", "Counting"]``; empty if it has none.

    Text that holds no list of texts is the type itself.
    """
    if record.optional("question_content") is None:
        return ""
    written, parts = record.optional("type"), _read_texts(record, "type")
    if parts is None and not isinstance(written, str):
        raise InputError(record.where, "type to be text or a list of texts", value_shown(written), "mend the entry")
    kind = require_encodable(written if parts is None else " ".join(parts), record.where)
    if kind == CAPTION:
        raise InputError(record.where, "another type of question", repr(kind), "call it something else")
    return kind


def _read_texts(record: Record, field: str) -> list[str] | None:
    """A list of texts, which the official files write as a text that holds JSON; None if it is something else."""
    written = record.optional(field)
    try:
        values = json.loads(written) if isinstance(written, str) else written or []
    except (ValueError, RecursionError):  # no JSON, a number of thousands of digits, or lists that are nested too deep
        return None
    return values if isinstance(values, list) and all(isinstance(value, str) for value in values) else None
