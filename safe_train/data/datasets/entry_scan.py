"""Scans a manifest's entry field by field for every error; the readers stop at the first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from safe_train.data.datasets.issues import Issue, IssueKind
from safe_train.data.datasets.manifest import Record, resolve
from safe_train.errors import InputError

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class EntryFields:
    """Names of the fields of a manifest's entries; of several, the first that is present is used.

    Attributes:
        identifier: the entry's id.
        question: the question.
        answers: references or captions.
        audio: path of the clip.
        image: path of the image.
        required: which of ``audio`` and ``image`` every entry has.
        audio_id: id by which the audio is found if an entry names no path.
    """

    identifier: tuple[str, ...] = ("id",)
    question: tuple[str, ...] = ("question",)
    answers: tuple[str, ...] = ("answers", "answer")
    audio: tuple[str, ...] = ("audio", "audio_path")
    image: tuple[str, ...] = ("image", "image_path")
    required: tuple[Literal["audio", "image"], ...] = ()
    audio_id: tuple[str, ...] = ()


class EntryScan:
    """An entry whose fields are read one by one.

    Attributes:
        record: the entry.
        number: its place in the list, from 1.
        issues: issues found so far.
    """

    def __init__(self, record: Record, number: int) -> None:
        self.record, self.number = record, number
        self.issues: list[Issue] = []

    def take(self, kind: IssueKind, read: Callable[[], _Value]) -> _Value | None:
        """What is read; where that is refused, None and one issue more."""
        try:
            return read()
        except InputError as error:
            self.issues.append(Issue.of(kind, error))
            return None

    def take_path(self, root: Path, folder: Path, names: tuple[str, ...], *, is_required: bool) -> Path | None:
        """The path in the first of the fields that is there, in the root, in the set's folder or in a shard."""
        found = self.record.optional(*names)
        if isinstance(found, Path) or (found is None and not is_required):
            return found
        written = self.take(IssueKind.ENTRY, lambda: self.record.text(*names))
        if written is None:
            return None
        return self.take(IssueKind.OUTSIDE, lambda: resolve(root, folder, written, self.record.where))
