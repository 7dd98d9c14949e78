"""Manifests entry by entry: every field that is wrong, where the readers stop at the first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from safe_train.data.datasets.avqa import avqa_question
from safe_train.data.datasets.manifest import Record, resolve
from safe_train.data.datasets.text import TEXT_SET, text_answers, text_cluster, text_id, text_kind, text_question
from safe_train.data.validation.issues import Issue, IssueKind, Item
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
    question: Callable[[Record, bool], str | None] = lambda record, has_image: record.optional_question(
        "question", has_image=has_image
    )


_FIELDS = {
    "audiocaps": _Fields(("id", "ytid"), ("answers", "answer", "caption", "captions")),
    "wavcaps": _Fields(("id",), ("answers", "answer", "caption"), image=(), required=("audio",)),
    "avqa": _Fields(
        ("id", "sample_id", "question_id"),
        ("answers", "answer", "anser"),
        required=("audio",),
        question=lambda record, has_image: avqa_question(record, has_image=has_image),
    ),
    "vqa": _Fields(
        ("question_id", "id"),
        ("answers", "answer"),
        audio=(),
        required=("image",),
        question=lambda record, _: record.question("question", "question_text", has_image=True),
    ),
}


def text_item(record: Record) -> Item:
    """A text-only entry that is right."""
    question = text_question(record)
    return Item(question, text_answers(record), is_document=question is None)


def scan_entries(root: Path, set_name: str, records: list[Record]) -> Iterator[Item | Issue]:
    """The entries of a manifest with what of them can be read, and the defects of their fields.

    An audio file that an entry does not name, for it is found by the entry's id, is not looked for.
    """
    seen: set[str] = set()
    for number, record in enumerate(records, start=1):
        is_text = set_name == TEXT_SET
        entry = _TextEntry(record, number) if is_text else _MediaEntry(root, set_name, record)
        identifier = entry.take(IssueKind.ENTRY, lambda entry=entry: entry.identifier())
        if identifier in seen:
            entry.defects.append(Issue(IssueKind.DUPLICATE, str(identifier), record.where))
        elif identifier is not None:
            seen.add(identifier)
        item = entry.item()
        yield from entry.defects
        yield item


class _Entry:
    """An entry whose fields are taken one by one; those that are wrong become defects."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.defects: list[Issue] = []

    def take(self, kind: IssueKind, read: Callable[[], _Value]) -> _Value | None:
        try:
            return read()
        except InputError as error:
            self.defects.append(Issue.of(kind, error))
            return None


class _MediaEntry(_Entry):
    """An entry that names an audio file, an image, or both."""

    def __init__(self, root: Path, set_name: str, record: Record) -> None:
        super().__init__(record)
        self.root, self.set_name, self.fields = root, set_name, _FIELDS[set_name]

    def identifier(self) -> str | None:
        """What needs to be unique; None for a caption of a YouTube clip, of which a clip may have many."""
        if self.set_name == "audiocaps" and self._names_a_clip():
            return None
        name = self.record.identifier(*self.fields.identifier)
        subset = self.record.optional_text("subset") if self.set_name == "wavcaps" else None
        return f"{subset}/{name}" if subset else name

    def item(self) -> Item:
        image = self._path("image", self.fields.image)
        question = self.take(IssueKind.ENTRY, lambda: self.fields.question(self.record, image is not None))
        answers = self.take(IssueKind.ANSWERS, lambda: self.record.references(*self.fields.answers))
        return Item(question, answers or (), self._path("audio", self.fields.audio), image)

    def _names_a_clip(self) -> bool:
        metadata = self.record.optional("metadata")
        places = [self.record.fields, metadata if isinstance(metadata, dict) else {}]
        return any(place.get(name) is not None for place in places for name in ("ytid", "youtube_id"))

    def _path(self, role: str, names: tuple[str, ...]) -> Path | None:
        found_by_id = role == "audio" and self.record.optional("video_id") is not None
        if self.record.optional(*names) is None and (role not in self.fields.required or found_by_id):
            return None
        written = self.take(IssueKind.ENTRY, lambda: self.record.text(*names))
        if written is None:
            return None
        folder = self.root / self.set_name
        return self.take(IssueKind.OUTSIDE, lambda: resolve(self.root, folder, written, self.record.where))


class _TextEntry(_Entry):
    """An entry of text-only rows, which has one of several forms and may have its number for an id."""

    def __init__(self, record: Record, number: int) -> None:
        super().__init__(record)
        self.number = number

    def identifier(self) -> str | None:
        return text_id(self.record, self.number)

    def item(self) -> Item:
        for read in (text_kind, text_cluster):
            self.take(IssueKind.ENTRY, partial(read, self.record))
        known = len(self.defects)
        question = self.take(IssueKind.ENTRY, partial(text_question, self.record))
        if len(self.defects) > known:  # whether it is to have answers cannot be told
            return Item(question, ())
        is_document = question is None
        kind = IssueKind.ENTRY if is_document else IssueKind.ANSWERS
        answers = self.take(kind, partial(text_answers, self.record))
        return Item(question, answers or (), is_document=is_document)
