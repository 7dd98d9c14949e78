"""The issues of a data folder, and the files and texts that its lists name."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from safe_train.data.datasets.manifest import A_PATH, IMAGE_TOKEN, NO_PLACEHOLDER, UNICODE
from safe_train.errors import InputError


class IssueKind(StrEnum):
    """What can be wrong, in words."""

    LIST = "list that cannot be read"
    ENTRY = "entry with a field that is missing or malformed"
    DUPLICATE = "id that stands twice"
    ANSWERS = "answers that are missing or empty"
    OUTSIDE = "path that leaves the root"
    TOKEN = f"question or text with the literal {IMAGE_TOKEN}"
    SURROGATE = "text with half a character (a lone surrogate)"
    MISSING_AUDIO = "audio file that is missing"
    EMPTY_AUDIO = "audio without samples"
    SHORT_AUDIO = "audio too short to be heard"
    ZERO_RATE = "audio with a rate of 0 Hz"
    LOW_RATE = "audio with a rate too low to be heard"
    TRUNCATED_AUDIO = "audio that ends early"
    MISLABELED_AUDIO = "audio whose name tells another format"
    UNREADABLE_AUDIO = "audio that cannot be decoded"
    MISSING_IMAGE = "image file that is missing"
    UNREADABLE_IMAGE = "image that cannot be read"


@dataclass(frozen=True)
class Issue:
    """Something that is wrong with a data folder.

    Attributes:
        kind: kind of issue.
        name: the file, entry or id that it is about.
        detail: what was found.
    """

    kind: IssueKind
    name: str
    detail: str

    @classmethod
    def of(cls, kind: IssueKind, error: InputError) -> Issue:
        """A reader's error as an issue of that kind, or of the kind that the error itself names."""
        told = {UNICODE: IssueKind.SURROGATE, NO_PLACEHOLDER: IssueKind.TOKEN, A_PATH: IssueKind.ENTRY}
        return cls(told.get(error.expected, kind), str(error.where), f"expected {error.expected}, got {error.got}")


@dataclass(frozen=True)
class ListedRecord:
    """One entry of a list: a question, or a clip with its captions.

    Attributes:
        question: None where the answers are captions, and for a document.
        answers: the references, or the document's text; empty where a split has none.
        audio: its audio file, which may be missing.
        image: its image file, which may be missing.
        is_document: whether it is a text without a question.
    """

    question: str | None
    answers: tuple[str, ...]
    audio: Path | None = None
    image: Path | None = None
    is_document: bool = False
