"""Captioned clips: the official AudioCaps CSV with its audio files, or a manifest with entries for each clip."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from safe_train.audio.formats import AUDIO_SUFFIXES
from safe_train.data.datasets.clips import AudioRecord, MissingClips, require_clips
from safe_train.data.datasets.manifest import (
    Record,
    as_record,
    find_manifest,
    manifest_names,
    read_records,
    read_text,
    resolve,
    set_folder,
)
from safe_train.errors import InputError
from safe_train.io.files import file_problem
from safe_train.io.messages import shortened, value_shown

_SET = "audiocaps"
_COLUMNS = ("audiocap_id", "youtube_id", "start_time", "caption")


def load_audiocaps(root: Path, split: str) -> list[AudioRecord]:
    """Reads the clips of a split whose audio is there; warns, with count and names, of those whose audio is not.

    See :func:`read_audiocaps` for the files that are read.

    Raises:
        InputError: as :func:`read_audiocaps`, or no clip has its audio.
    """
    return require_clips(*read_audiocaps(root, split))


def read_audiocaps(root: Path, split: str) -> tuple[list[AudioRecord], MissingClips]:
    """Reads the clips of a split, in the order of the file, and which of them have no audio file.

    Tried in turn in ``root/audiocaps/``: the official ``train.csv`` (audiocap_id, youtube_id, start_time, caption),
    with audio ``audio/train/<youtube_id>_<start_time>``, ``<youtube_id>`` or ``<audiocap_id>`` as ``.wav``, ``.flac``,
    ``.ogg`` or ``.mp3``; then ``audiocaps_train.jsonl``, ``audiocaps_train.json``, ``train.jsonl``, ``train.json``.

    A manifest entry has ``id`` or ``ytid``; ``answers``, ``answer``, ``caption`` or ``captions``; ``audio`` or
    ``audio_path``, relative to the root or to ``root/audiocaps/`` (without it the audio is looked for as the official
    data's); if it likes ``question`` and ``image`` or ``image_path``; and, at top level or in ``metadata``, ``ytid`` or
    ``youtube_id`` and ``start_time``. Rows of one (youtube_id, start_time) with the same question and image are one
    example with all their captions.

    Raises:
        InputError: a file or field is missing or malformed, an id appears twice, rows of one clip name different
            files, an image is missing, or a path leaves the root.
    """
    folder = set_folder(root, _SET)
    table = folder / f"{split}.csv"
    if file_problem(table) is None:
        source, rows = table, list(_table_rows(table))
    elif manifest := find_manifest(folder, _SET, split):
        source, rows = manifest, list(_manifest_rows(root, folder, manifest))
    else:
        expected = " or ".join((table.name, *manifest_names(_SET, split)))
        raise InputError(folder, expected, "none of them", f"put one there or name a split other than {split!r}")
    examples, missing = _examples(rows, _AudioFolder(folder / "audio" / split, rows))
    return examples, MissingClips(source, tuple(missing), len(examples) + len(missing))


@dataclass(frozen=True)
class OfficialRow:
    """One line of the official table.

    Attributes:
        audiocap_id: the caption's id.
        youtube_id: the video.
        start_time: where the clip begins in it, in seconds.
        caption: the caption.
        audio_path: the clip's audio file, or None if it is not there.
    """

    audiocap_id: str
    youtube_id: str
    start_time: float
    caption: str
    audio_path: Path | None


def read_official_rows(folder: Path, split: str) -> list[OfficialRow]:
    """Reads ``folder/<split>.csv`` line by line, captions of one clip apart; see :func:`read_audiocaps`.

    Raises:
        InputError: the table is missing or malformed, or an id appears twice.
    """
    rows = list(_table_rows(folder / f"{split}.csv"))
    audio = _AudioFolder(folder / "audio" / split, rows)
    return [
        OfficialRow(row.row_id, row.clip.youtube_id, float(row.clip.start_time), row.captions[0], audio.find([row]))
        for row in rows
    ]


class _Clip(NamedTuple):
    """What identifies a clip: its YouTube id and start in seconds, or, if it has none, the manifest's own id."""

    youtube_id: str
    start_time: str
    own_id: str

    @property
    def name(self) -> str:
        return self.own_id or "_".join(part for part in (self.youtube_id, self.start_time) if part)


@dataclass(frozen=True)
class _Row:
    """One line of the table or entry of the manifest."""

    where: str
    row_id: str
    clip: _Clip
    captions: tuple[str, ...]
    audio: Path | None = None
    question: str | None = None
    image: Path | None = None


class _AudioFolder:
    """The audio files of a split, found by name as the official data's are."""

    def __init__(self, folder: Path, rows: Iterable[_Row]) -> None:
        self._files = _audio_files(folder)
        self._starts: dict[str, set[str]] = defaultdict(set)
        for row in rows:
            self._starts[row.clip.youtube_id].add(row.clip.start_time)

    def find(self, rows: list[_Row]) -> Path | None:
        """The file of the clip that the rows describe, or None."""
        return next((self._files[stem] for stem in self._stems(rows) if stem in self._files), None)

    def _stems(self, rows: list[_Row]) -> Iterator[str]:
        clip = rows[0].clip
        if clip.youtube_id:
            yield f"{clip.youtube_id}_{clip.start_time}"
            yield f"{clip.youtube_id}_{clip.start_time}.0"
            # A file named by the video alone says nothing where the split has two clips of the video.
            if len(self._starts[clip.youtube_id]) == 1:
                yield clip.youtube_id
        yield from (row.row_id for row in rows)


def _audio_files(folder: Path) -> dict[str, Path]:
    """The folder's audio files by name without suffix; of several with one name, the first in the order of suffixes."""
    files: dict[str, Path] = {}
    if folder.is_dir():
        by_suffix = defaultdict(list)
        for path in folder.iterdir():
            by_suffix[path.suffix.lower()].append(path)
        for suffix in reversed(AUDIO_SUFFIXES):
            files.update({path.stem: path for path in by_suffix[suffix]})
    return files


def _table_rows(table: Path) -> Iterator[_Row]:
    # The reader keeps its own line breaks: a quoted caption may contain one.
    reader = csv.DictReader(io.StringIO(read_text(table), newline=""), strict=True)
    lines_by_id: dict[str, int] = {}
    try:
        if absent := [column for column in _COLUMNS if column not in (reader.fieldnames or ())]:
            got = f"no {', '.join(absent)}"
            raise InputError(table, f"the columns {', '.join(_COLUMNS)}", got, "use the official file")
        for line in reader:
            where = f"{table}:{reader.line_num}"
            if None in line or None in line.values():
                raise InputError(where, f"{len(reader.fieldnames or ())} values", "another number", "quote the caption")
            record = as_record(line, where)
            row_id = record.text("audiocap_id")
            if row_id in lines_by_id:
                got = f"{shortened(row_id)} again, first on line {lines_by_id[row_id]}"
                raise InputError(where, "an audiocap_id of its own", got, "remove or renumber one of the two")
            lines_by_id[row_id] = reader.line_num
            clip = _Clip(record.text("youtube_id"), _start_time(record), "")
            yield _Row(where, row_id, clip, record.references("caption"))
    except csv.Error as error:
        raise InputError(f"{table}:{reader.line_num}", "CSV", str(error), "use the official file") from error
    if not lines_by_id:
        raise InputError(table, "at least one clip", "none", "use the official file")


def _manifest_rows(root: Path, folder: Path, manifest: Path) -> Iterator[_Row]:
    seen: dict[str, str] = {}
    for record in read_records(manifest):
        clip = _manifest_clip(record)
        if clip.own_id in seen:
            got = f"{shortened(clip.own_id)} again, first at {seen[clip.own_id]}"
            raise InputError(record.where, "an id of its own", got, "rename one, or give ytid and start_time")
        if clip.own_id:
            seen[clip.own_id] = record.where
        audio = record.optional_text("audio", "audio_path")
        image = record.optional_text("image", "image_path")
        yield _Row(
            where=record.where,
            row_id=clip.name if record.optional("id") is None else record.identifier("id"),
            clip=clip,
            captions=record.references("answers", "answer", "caption", "captions"),
            audio=resolve(root, folder, audio, record.where) if audio else None,
            question=record.optional_question("question", has_image=image is not None),
            image=resolve(root, folder, image, record.where) if image else None,
        )


def _manifest_clip(record: Record) -> _Clip:
    metadata = as_record(record.optional("metadata") or {}, f"{record.where}: metadata")
    place = metadata if record.optional("ytid", "youtube_id") is None else record
    youtube_id = place.optional_text("ytid", "youtube_id")
    if youtube_id is None:
        return _Clip("", "", record.identifier("id", "ytid"))
    start = metadata if record.optional("start_time") is None else record
    return _Clip(youtube_id, "" if start.optional("start_time") is None else _start_time(start), "")


def _start_time(record: Record) -> str:
    """The start in seconds as the shortest text that means it: ``30`` for 30, 30.0 and "30.0"."""
    value = record.required("start_time")
    try:
        seconds = float(value)
    except (OverflowError, TypeError, ValueError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise InputError(record.where, "start_time in seconds", value_shown(value), "write a number of at least 0")
    return str(int(seconds)) if seconds.is_integer() else repr(seconds)


def _examples(rows: list[_Row], audio_folder: _AudioFolder) -> tuple[list[AudioRecord], list[str]]:
    """The examples whose audio is there, and the clip ids of the others."""
    _require_one_file_per_clip(rows)
    groups: dict[tuple[_Clip, str | None, Path | None], list[_Row]] = defaultdict(list)
    for row in rows:
        groups[row.clip, row.question, row.image].append(row)
    examples, missing = [], []
    for (clip, question, image), group in groups.items():
        if image is not None and (problem := file_problem(image)):
            raise InputError(image, f"the image of {group[0].where}", problem, "put it there or drop the entry")
        audio = group[0].audio or audio_folder.find(group)
        if audio is None or file_problem(audio):
            missing.append(clip.name)
        else:
            captions = tuple(caption for row in group for caption in row.captions)
            examples.append(AudioRecord(clip.name, audio, captions, question, image))
    return examples, missing


def _require_one_file_per_clip(rows: list[_Row]) -> None:
    first_rows: dict[_Clip, _Row] = {}
    for row in rows:
        first = first_rows.setdefault(row.clip, row)
        if row.audio != first.audio:
            expected = f"the audio of {first.where}, which is the same clip"
            raise InputError(row.where, expected, str(row.audio), "mend the path or the start_time")
