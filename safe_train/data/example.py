"""The examples of training and evaluation: a question with references and, optionally, an image and a clip."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safe_train.audio.input import AudioInput

CAPTION, QUESTION = "caption", "question"
"""Kinds of audio examples: what is heard is to be described, or a question about it answered."""

DOCUMENT = "document"
"""Kind of a text-only example without a question: its only answer is a text, scored in bits per byte."""


@dataclass(frozen=True)
class Example:
    """A question with references and, optionally, an image and a clip.

    Attributes:
        row_id: unique in its set.
        question: the model's input text.
        answers: the references; the first is trained on.
        image: path or None.
        audio: path, altered clip or noise, or None.
        kind: the question type, used to break down accuracy.
        cluster: examples that share it are not independent (questions about one image).
    """

    row_id: str
    question: str
    answers: tuple[str, ...]
    image: Path | None = None
    audio: AudioInput | None = None
    kind: str = ""
    cluster: str = ""

    @property
    def is_document(self) -> bool:
        """Whether it is a text without a question; a question may have any type, even ``document``."""
        return self.kind == DOCUMENT and not self.question and self.image is None
