"""Converts the records of a data set to examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from safe_train.data.datasets.records import AudioRecord, TextRecord, VQARecord
from safe_train.data.example import CAPTION, QUESTION, Example


def convert_vqa(records: Sequence[VQARecord]) -> list[Example]:
    """VL examples, the majority answer first."""
    return [
        Example(
            row_id=str(record.question_id),
            question=record.question,
            answers=_put_majority_first(record.answers),
            image=record.image_path,
            kind=record.question_type,
            cluster=str(record.image_id),
        )
        for record in records
    ]


def convert_audio(records: Sequence[AudioRecord], default_question: str) -> list[Example]:
    """Audio examples; captions are the references, and clips without a question get ``default_question``.

    The second question about a clip gets the id ``<clip_id>#2``, and so on.
    """
    seen: Counter[str] = Counter()
    examples = []
    for record in records:
        seen[record.clip_id] += 1
        count = seen[record.clip_id]
        examples.append(_convert_clip(record, default_question, f"#{count}" if count > 1 else ""))
    return examples


def _convert_clip(record: AudioRecord, default_question: str, suffix: str) -> Example:
    return Example(
        row_id=record.clip_id + suffix,
        question=record.question or default_question,
        answers=record.captions,
        image=record.image_path,
        audio=record.audio_path,
        kind=CAPTION if record.question is None else record.question_type or QUESTION,
        cluster=record.clip_id,
    )


def convert_text(records: Sequence[TextRecord]) -> list[Example]:
    """Text-only examples, the majority answer first."""
    return [
        Example(
            row_id=record.text_id,
            question=record.question,
            answers=_put_majority_first(record.answers),
            kind=record.kind,
            cluster=record.cluster,
        )
        for record in records
    ]


def _put_majority_first(answers: tuple[str, ...]) -> tuple[str, ...]:
    if not answers:
        return answers
    majority = Counter(answers).most_common(1)[0][0]
    return (
        majority,
        *(answer for answer in answers if answer != majority),
        *(majority,) * (answers.count(majority) - 1),
    )
