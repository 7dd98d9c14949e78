"""From the records of a data set to examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from safe_train.data.datasets.clips import AudioRecord
from safe_train.data.datasets.text import TextRecord
from safe_train.data.datasets.vqa import VQARecord
from safe_train.data.example import CAPTION, QUESTION, Example


def vl_rows(examples: Sequence[VQARecord]) -> list[Example]:
    """VL rows, the majority answer first."""
    return [
        Example(
            row_id=str(example.question_id),
            question=example.question,
            answers=_majority_first(example.answers),
            image=example.image_path,
            kind=example.question_type,
            cluster=str(example.image_id),
        )
        for example in examples
    ]


def audio_rows(examples: Sequence[AudioRecord], default_question: str) -> list[Example]:
    """Audio rows; captions are the references, and clips without a question are asked ``default_question``.

    The second question about a clip gets the id ``<clip_id>#2``, and so on.
    """
    seen: Counter[str] = Counter()
    rows = []
    for example in examples:
        seen[example.clip_id] += 1
        count = seen[example.clip_id]
        rows.append(_audio_row(example, default_question, f"#{count}" if count > 1 else ""))
    return rows


def _audio_row(example: AudioRecord, default_question: str, suffix: str) -> Example:
    return Example(
        row_id=example.clip_id + suffix,
        question=example.question or default_question,
        answers=example.captions,
        image=example.image_path,
        audio=example.audio_path,
        kind=CAPTION if example.question is None else QUESTION,
        cluster=example.clip_id,
    )


def text_rows(examples: Sequence[TextRecord]) -> list[Example]:
    """Text-only rows, the majority answer first."""
    return [
        Example(
            row_id=example.text_id,
            question=example.question,
            answers=_majority_first(example.answers),
            kind=example.kind,
            cluster=example.cluster,
        )
        for example in examples
    ]


def _majority_first(answers: tuple[str, ...]) -> tuple[str, ...]:
    if not answers:
        return answers
    majority = Counter(answers).most_common(1)[0][0]
    return (
        majority,
        *(answer for answer in answers if answer != majority),
        *(majority,) * (answers.count(majority) - 1),
    )
