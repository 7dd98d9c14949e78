"""Raw records, as readers return them; they are converted to examples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class AudioRecord:
    """A clip with its captions or answers.

    Attributes:
        clip_id: ``<youtube_id>_<start_time>``, or the manifest's id where it names no YouTube clip. Records that ask
            different questions about one clip share it.
        audio_path: the audio file, which exists.
        captions: all reference captions, or reference answers if there is a question; at least one.
        question: the question about the clip, or None for captioning.
        image_path: an image that belongs to the clip, which exists, or None.
        question_type: such as ``Audio-Visual Temporal`` in MUSIC-AVQA; empty if the list gives none.
    """

    clip_id: str
    audio_path: Path
    captions: tuple[str, ...]
    question: str | None
    image_path: Path | None
    question_type: str = ""


@dataclass(frozen=True)
class VQARecord:
    """A question about an image.

    Attributes:
        question_id: unique in its split; a number, or a name in your own lists.
        image_id: equal for questions about the same image; intervals are bootstrapped by it.
        question: the question.
        answers: all reference answers, ten in the official data; empty where the split has no annotations.
        image_path: the image, which exists.
        question_type: the first words of the question in the official data; empty if a manifest has none.
        answer_type: ``yes/no``, ``number`` or ``other`` in the official data; empty if a manifest has none.
    """

    question_id: int | str
    image_id: int | str
    question: str
    answers: tuple[str, ...]
    image_path: Path
    question_type: str
    answer_type: str


@dataclass(frozen=True)
class TextRecord:
    """A question with its answers, or a piece of a document.

    Attributes:
        text_id: unique in its split.
        question: the question; empty for a document.
        answers: the reference answers, or the piece alone.
        kind: the question's type, or ``DOCUMENT``.
        cluster: shared by records that are not independent, such as the pieces of a document.
    """

    text_id: str
    question: str
    answers: tuple[str, ...]
    kind: str
    cluster: str
