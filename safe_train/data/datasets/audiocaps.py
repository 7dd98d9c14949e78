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

from safe_train.audio.folder import index_audio_files
from safe_train.data.datasets.clips import MissingClips
from safe_train.data.datasets.entry_scan import EntryFields
from safe_train.data.datasets.manifest import (
    Record,
    as_record,
    optional_file,
    read_records,
    read_text,
    require_set_folder,
)
from safe_train.data.datasets.reader import AudioReader
from safe_train.data.datasets.records import AudioRecord
from safe_train.errors import InputError
from safe_train.io.contained import ContainedFile
from safe_train.io.files import file_problem
from safe_train.io.messages import shortened, value_shown

_COLUMNS = ("audiocap_id", "youtube_id", "start_time", "caption")


class AudioCaps(AudioReader):
    """AudioCaps, or your own list of clips with captions.

    Tried in turn in ``root/audiocaps/``: the official ``train.csv`` (audiocap_id, youtube_id, start_time, caption),
    with audio ``audio/train/<youtube_id>_<start_time>``, ``<youtube_id>`` or ``<audiocap_id>`` as ``.wav``, ``.flac``,
    ``.ogg`` or ``.mp3``; then ``audiocaps_train.jsonl``, ``audiocaps_train.json``, ``train.jsonl``, ``train.json``;
    then :mod:`shards <safe_train.data.datasets.shards>`.

    A manifest entry has ``id`` or ``ytid``; ``answers``, ``answer``, ``caption`` or ``captions``; ``audio`` or
    ``audio_path``, relative to the root or to ``root/audiocaps/`` (without it the audio is found as in the official
    data); optionally ``question`` and ``image`` or ``image_path``; and, at top level or in ``metadata``, ``ytid`` or
    ``youtube_id`` and ``start_time``. Entries of one (youtube_id, start_time) with the same question and image are one
    record with all their captions.
    """

    name = "audiocaps"
    fields = EntryFields(identifier=("id", "ytid"), answers=("answers", "answer", "caption", "captions"))

    def official_lists(self, root: Path, split: str) -> list[Path]:
        """The official table of a split, if it is there."""
        table = root / self.name / f"{split}.csv"
        return [table] if file_problem(table) is None else []

    def read(self, root: Path, split: str) -> tuple[list[AudioRecord], MissingClips]:
        """Reads the clips of a split, in the order of the file, and which of them have no audio file.

        Raises:
            InputError: a file or field is missing or malformed, an id appears twice, entries of one clip name
                different files, an image is missing, or a path leaves the root.
        """
        folder = require_set_folder(root, self.name)
        if official := self.official_lists(root, split):
            source, entries = official[0], list(_read_table(official[0]))
        else:
            source = self.require_manifest(root, split, f"{split}.csv")
            entries = list(self._read_manifest(root, source))
        records, missing = _group_by_clip(entries, _AudioFolder(folder / "audio" / split, entries))
        return records, MissingClips(source, tuple(missing), len(records) + len(missing))

    def entry_id(self, record: Record, number: int) -> str | None:
        """None for a caption of a YouTube clip, of which a clip may have many."""
        return None if _names_video(record) else super().entry_id(record, number)

    def _read_manifest(self, root: Path, manifest: Path) -> Iterator[_Entry]:
        folder, fields = root / self.name, self.fields
        seen: dict[str, str] = {}
        for record in read_records(manifest):
            clip = _manifest_clip(record)
            if clip.own_id in seen:
                got = f"{shortened(clip.own_id)} again, first at {seen[clip.own_id]}"
                raise InputError(record.where, "an id of its own", got, "rename one, or give ytid and start_time")
            if clip.own_id:
                seen[clip.own_id] = record.where
            image = optional_file(record, fields.image, root, folder)
            yield _Entry(
                where=record.where,
                entry_id=clip.name if record.optional("id") is None else record.identifier("id"),
                clip=clip,
                captions=record.references(*fields.answers),
                audio=optional_file(record, fields.audio, root, folder),
                question=self.question(record, has_image=image is not None),
                image=image,
            )


@dataclass(frozen=True)
class CaptionRecord:
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


def read_captions(folder: Path, split: str) -> list[CaptionRecord]:
    """Reads ``folder/<split>.csv`` line by line, captions of one clip apart; see :class:`AudioCaps`.

    Raises:
        InputError: the table is missing or malformed, or an id appears twice.
    """
    entries = list(_read_table(folder / f"{split}.csv"))
    audio = _AudioFolder(folder / "audio" / split, entries)
    return [
        CaptionRecord(e.entry_id, e.clip.youtube_id, float(e.clip.start_time), e.captions[0], audio.find([e]))
        for e in entries
    ]


class _Clip(NamedTuple):
    """The identity of a clip: its YouTube id and start in seconds, or, if it has none, the manifest's own id."""

    youtube_id: str
    start_time: str
    own_id: str

    @property
    def name(self) -> str:
        return self.own_id or "_".join(part for part in (self.youtube_id, self.start_time) if part)


@dataclass(frozen=True)
class _Entry:
    """One line of the table or entry of the manifest."""

    where: str
    entry_id: str
    clip: _Clip
    captions: tuple[str, ...]
    audio: Path | None = None
    question: str | None = None
    image: Path | None = None


class _AudioFolder:
    """The audio files of a split, found by name as in the official data."""

    def __init__(self, folder: Path, entries: Iterable[_Entry]) -> None:
        self._files = index_audio_files([folder])
        self._starts: dict[str, set[str]] = defaultdict(set)
        for entry in entries:
            self._starts[entry.clip.youtube_id].add(entry.clip.start_time)

    def find(self, entries: list[_Entry]) -> Path | None:
        """The file of the clip that the entries describe, or None."""
        return next((self._files[stem] for stem in self._stems(entries) if stem in self._files), None)

    def _stems(self, entries: list[_Entry]) -> Iterator[str]:
        clip = entries[0].clip
        if clip.youtube_id:
            yield f"{clip.youtube_id}_{clip.start_time}"
            yield f"{clip.youtube_id}_{clip.start_time}.0"
            # A file named by the video alone says nothing where the split has two clips of the video.
            if len(self._starts[clip.youtube_id]) == 1:
                yield clip.youtube_id
        yield from (entry.entry_id for entry in entries)


def _read_table(table: Path) -> Iterator[_Entry]:
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
            entry_id = record.text("audiocap_id")
            if entry_id in lines_by_id:
                got = f"{shortened(entry_id)} again, first on line {lines_by_id[entry_id]}"
                raise InputError(where, "an audiocap_id of its own", got, "remove or renumber one of the two")
            lines_by_id[entry_id] = reader.line_num
            clip = _Clip(record.text("youtube_id"), _start_time(record), "")
            yield _Entry(where, entry_id, clip, record.references("caption"))
    except csv.Error as error:
        raise InputError(f"{table}:{reader.line_num}", "CSV", str(error), "use the official file") from error
    if not lines_by_id:
        raise InputError(table, "at least one clip", "none", "use the official file")


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


def _names_video(record: Record) -> bool:
    """Whether an entry has the YouTube id of its clip, at top level or in ``metadata``."""
    metadata = record.optional("metadata")
    places = [record.fields, metadata if isinstance(metadata, dict) else {}]
    return any(place.get(name) is not None for place in places for name in ("ytid", "youtube_id"))


def _group_by_clip(entries: list[_Entry], audio_folder: _AudioFolder) -> tuple[list[AudioRecord], list[str]]:
    """The records whose audio is there, and the clip ids of the others."""
    _require_one_file_per_clip(entries)
    groups: dict[tuple[_Clip, str | None, Path | None], list[_Entry]] = defaultdict(list)
    for entry in entries:
        groups[entry.clip, entry.question, entry.image].append(entry)
    records, missing = [], []
    for (clip, question, image), group in groups.items():
        if image is not None and (problem := file_problem(image)):
            raise InputError(image, f"the image of {group[0].where}", problem, "put it there or drop the entry")
        audio = group[0].audio or audio_folder.find(group)
        if audio is None or file_problem(audio):
            missing.append(clip.name)
        else:
            references = tuple(caption for entry in group for caption in entry.captions)
            records.append(AudioRecord(clip.name, audio, references, question, image))
    return records, missing


def _require_one_file_per_clip(entries: list[_Entry]) -> None:
    first_of: dict[_Clip, _Entry] = {}
    for entry in entries:
        first = first_of.setdefault(entry.clip, entry)
        if entry.audio != first.audio and not isinstance(entry.audio, ContainedFile):  # each entry has its own copy
            expected = f"the audio of {first.where}, which is the same clip"
            raise InputError(entry.where, expected, str(entry.audio), "mend the path or the start_time")
