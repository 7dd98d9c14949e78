"""The lists of a data pack: captioned clips (``subset_manifest.json``) and questions (``val_manifest.json``)."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safe_train.data.datasets.manifest import Record, as_record, read_json, require_unique, strip_placeholder
from safe_train.errors import InputError
from safe_train.io.messages import value_shown

CLIP_FIELDS = ("audiocap_id", "youtube_id", "start_time", "caption")


@dataclass(frozen=True)
class PackedClip:
    """One caption of a clip.

    Attributes:
        audiocap_id: the caption's id in AudioCaps.
        youtube_id: the video.
        start_time: where the clip begins in it, in seconds, or None if that is not known.
        caption: the caption.
        audio_relpath: the audio file, relative to the pack.
    """

    audiocap_id: str
    youtube_id: str
    start_time: float | None
    caption: str
    audio_relpath: str

    @property
    def clip_id(self) -> str:
        """``<youtube_id>_<start_time>``, the start written as short as it can be."""
        if self.start_time is None:
            return self.youtube_id
        return f"{self.youtube_id}_{int(self.start_time) if self.start_time.is_integer() else self.start_time}"

    @classmethod
    def from_record(cls, record: Record) -> PackedClip:
        """Reads an entry; InputError if a field is missing or of another type."""
        return cls(
            audiocap_id=record.identifier("audiocap_id"),
            youtube_id=record.text("youtube_id"),
            start_time=_read_seconds(record),
            caption=strip_placeholder(record.text("caption"), record.where),
            audio_relpath=record.text("audio_relpath"),
        )


@dataclass(frozen=True)
class SubsetManifest:
    """The clips of a pack, including those whose audio was missing when it was made.

    Attributes:
        subset_name: name of the subset.
        description: one sentence for people.
        seed: seed that it was drawn with.
        source_dataset: what it was drawn from.
        audio_rel_root: folder of the audio, relative to the pack.
        metadata_columns: the fields of an entry that come from the source.
        entries: the clips; an ``audiocap_id`` appears once.
    """

    subset_name: str
    description: str
    seed: int
    source_dataset: str
    audio_rel_root: str
    metadata_columns: tuple[str, ...]
    entries: tuple[PackedClip, ...]

    @classmethod
    def read(cls, path: Path) -> SubsetManifest:
        """Reads the file; InputError if it is malformed, empty, or names an ``audiocap_id`` twice."""
        header, records = _read_list(path)
        return cls(
            subset_name=header.text("subset_name"),
            description=header.text("description"),
            seed=header.integer("seed"),
            source_dataset=header.text("source_dataset"),
            audio_rel_root=header.text("audio_rel_root"),
            metadata_columns=header.texts("metadata_columns"),
            entries=clips_from_records(records),
        )

    def to_dict(self) -> dict[str, Any]:
        """What the file holds."""
        return asdict(self)


@dataclass(frozen=True)
class PackedQuestion:
    """A question about an image.

    Attributes:
        question_id: unique in the pack.
        image_id: equal for questions about one image.
        image_filename: the image's name in ``images/``.
        question: the question.
        answers: the reference answers, ten in VQA v2.
        majority_answer: the most frequent of them.
    """

    question_id: int | str
    image_id: int | str
    image_filename: str
    question: str
    answers: tuple[str, ...]
    majority_answer: str

    @classmethod
    def from_record(cls, record: Record) -> PackedQuestion:
        """Reads an entry; InputError if a field is missing or of another type."""
        return cls(
            question_id=record.number_or_name("question_id"),
            image_id=record.number_or_name("image_id"),
            image_filename=record.text("image_filename"),
            question=record.question("question", has_image=True),
            answers=record.references("answers"),
            majority_answer=record.text("majority_answer"),
        )


@dataclass(frozen=True)
class ValManifest:
    """The questions of a pack, including those whose image was missing when it was made.

    Attributes:
        subset_name: name of the subset.
        description: one sentence for people.
        seed: seed that it was drawn with.
        source_dataset: what it was drawn from.
        entries: the questions; a ``question_id`` appears once.
    """

    subset_name: str
    description: str
    seed: int
    source_dataset: str
    entries: tuple[PackedQuestion, ...]

    @classmethod
    def read(cls, path: Path) -> ValManifest:
        """Reads the file; InputError if it is malformed, empty, or names a ``question_id`` twice."""
        header, records = _read_list(path)
        entries = tuple(PackedQuestion.from_record(record) for record in records)
        require_unique(records, [str(entry.question_id) for entry in entries])
        return cls(
            subset_name=header.text("subset_name"),
            description=header.text("description"),
            seed=header.integer("seed"),
            source_dataset=header.text("source_dataset"),
            entries=entries,
        )

    def to_dict(self) -> dict[str, Any]:
        """What the file holds."""
        return asdict(self)


def clips_from_records(records: list[Record]) -> tuple[PackedClip, ...]:
    """Reads entries of clips; InputError if one is malformed or an ``audiocap_id`` appears twice."""
    entries = tuple(PackedClip.from_record(record) for record in records)
    require_unique(records, [entry.audiocap_id for entry in entries])
    return entries


def _read_list(path: Path) -> tuple[Record, list[Record]]:
    """The header and the records of its list ``entries``."""
    header = as_record(read_json(path), str(path))
    entries = header.required("entries")
    if not isinstance(entries, list) or not entries:
        raise InputError(path, "entries to be a non-empty list", value_shown(entries), "make the manifest again")
    return header, [as_record(entry, f"{path}: entries[{index}]") for index, entry in enumerate(entries)]


def _read_seconds(record: Record) -> float | None:
    value = record.optional("start_time")
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= sys.float_info.max:
        hint = "write a number of at least 0, or null"
        raise InputError(record.where, "start_time in seconds", value_shown(value), hint)
    return float(value)
