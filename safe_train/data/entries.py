"""Manifests entry by entry: every field that is wrong, where the readers stop at the first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from safe_train.data.avqa import avqa_question
from safe_train.data.defects import Defect, DefectKind, Item
from safe_train.data.manifest import Record, resolve
from safe_train.errors import InputError

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class _Fields:
    """Names of the fields of a set's entries; ``required`` says which of ``audio`` and ``image`` must be there."""

    identifier: tuple[str, ...]
    answers: tuple[str, ...]
    audio: tuple[str, ...] = ("audio", "audio_path")
    image: tuple[str, ...] = ("image", "image_path")
    required: tuple[str, ...] = ()
    question: Callable[[Record], str | None] = lambda record: record.optional_text("question")


_FIELDS = {
    "audiocaps": _Fields(("id", "ytid"), ("answers", "answer", "caption", "captions")),
    "wavcaps": _Fields(("id",), ("answers", "answer", "caption"), image=(), required=("audio",)),
    "avqa": _Fields(
        ("id", "sample_id", "question_id"),
        ("answers", "answer", "anser"),
        required=("audio",),
        question=avqa_question,
    ),
    "vqa": _Fields(
        ("question_id", "id"),
        ("answers", "answer"),
        audio=(),
        required=("image",),
        question=lambda record: record.text("question", "question_text"),
    ),
}


def scan_entries(root: Path, set_name: str, records: list[Record]) -> Iterator[Item | Defect]:
    """The entries of a manifest with what of them can be read, and the defects of their fields.

    An audio file that an entry does not name, for it is found by the entry's id, is not looked for.
    """
    seen: set[str] = set()
    for record in records:
        entry = _Entry(root, set_name, record)
        identifier = entry.take(DefectKind.ENTRY, lambda entry=entry: entry.identifier())
        if identifier in seen:
            entry.defects.append(Defect(DefectKind.DUPLICATE, str(identifier), record.where))
        elif identifier is not None:
            seen.add(identifier)
        item = entry.item()
        yield from entry.defects
        yield item


class _Entry:
    """An entry whose fields are taken one by one; those that are wrong become defects."""

    def __init__(self, root: Path, set_name: str, record: Record) -> None:
        self.root, self.set_name, self.record = root, set_name, record
        self.fields = _FIELDS[set_name]
        self.defects: list[Defect] = []

    def take(self, kind: DefectKind, read: Callable[[], _Value]) -> _Value | None:
        try:
            return read()
        except InputError as error:
            self.defects.append(Defect.of(kind, error))
            return None

    def identifier(self) -> str | None:
        """What needs to be unique; None for a caption of a YouTube clip, of which a clip may have many."""
        if self.set_name == "audiocaps" and self._names_a_clip():
            return None
        name = self.record.identifier(*self.fields.identifier)
        subset = self.record.optional_text("subset") if self.set_name == "wavcaps" else None
        return f"{subset}/{name}" if subset else name

    def item(self) -> Item:
        question = self.take(DefectKind.ENTRY, lambda: self.fields.question(self.record))
        answers = self.take(DefectKind.ANSWERS, lambda: self.record.texts(*self.fields.answers))
        return Item(
            question, answers or (), self._path("audio", self.fields.audio), self._path("image", self.fields.image)
        )

    def _names_a_clip(self) -> bool:
        metadata = self.record.optional("metadata")
        places = [self.record.fields, metadata if isinstance(metadata, dict) else {}]
        return any(place.get(name) is not None for place in places for name in ("ytid", "youtube_id"))

    def _path(self, role: str, names: tuple[str, ...]) -> Path | None:
        found_by_id = role == "audio" and self.record.optional("video_id") is not None
        if self.record.optional(*names) is None and (role not in self.fields.required or found_by_id):
            return None
        written = self.take(DefectKind.ENTRY, lambda: self.record.text(*names))
        if written is None:
            return None
        folder = self.root / self.set_name
        return self.take(DefectKind.OUTSIDE, lambda: resolve(self.root, folder, written, self.record.where))
