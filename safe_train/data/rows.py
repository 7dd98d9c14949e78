"""Rows: what Stage A trains and evaluates on, in an order that depends on the seed and the step alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from safe_train.data.clips import AudioExample
from safe_train.data.vqa import VQAExample
from safe_train.errors import InputError

# Streams of random numbers that must not depend on each other.
_AUDIO_ORDER, _VL_ORDER, _DISTRACTORS, _IMAGES, _SUBSET, _SPLIT = range(6)


@dataclass(frozen=True)
class Row:
    """A question with its references, an image or none, a clip or none.

    Attributes:
        row_id: unique in its set.
        question: the text put to the model.
        answers: the references; the first is trained on.
        image: path or None.
        audio: path or None.
        kind: the question type, by which accuracies are broken down.
        cluster: rows that share it are not independent (questions about one image).
    """

    row_id: str
    question: str
    answers: tuple[str, ...]
    image: Path | None = None
    audio: Path | None = None
    kind: str = ""
    cluster: str = ""


def vl_rows(examples: Sequence[VQAExample]) -> list[Row]:
    """VL rows, the majority answer first."""
    return [
        Row(
            row_id=str(example.question_id),
            question=example.question,
            answers=_majority_first(example.answers),
            image=example.image_path,
            kind=example.question_type,
            cluster=str(example.image_id),
        )
        for example in examples
    ]


def audio_rows(examples: Sequence[AudioExample], default_question: str) -> list[Row]:
    """Audio rows; captions are the references, and clips without a question are asked ``default_question``."""
    return [
        Row(
            row_id=example.clip_id,
            question=example.question or default_question,
            answers=example.captions,
            image=example.image_path,
            audio=example.audio_path,
            cluster=example.clip_id,
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


def draw_subset(rows: Sequence[Row], limit: int | None, seed: int) -> tuple[list[Row], list[int]]:
    """At most ``limit`` rows and their indices, ascending; the same for every variant of a seed."""
    if limit is None or limit >= len(rows):
        return list(rows), list(range(len(rows)))
    indices = np.sort(np.random.default_rng([seed, _SUBSET]).permutation(len(rows))[:limit]).tolist()
    return [rows[index] for index in indices], indices


@dataclass(frozen=True)
class Subset:
    """Rows and where they stand among all rows of their source.

    Attributes:
        rows: the rows.
        indices: one a row, ascending.
    """

    rows: list[Row]
    indices: list[int]

    @classmethod
    def whole(cls, rows: list[Row]) -> Subset:
        """All rows."""
        return cls(rows, list(range(len(rows))))

    def draw(self, limit: int | None, seed: int) -> Subset:
        """At most ``limit`` of the rows; see :func:`draw_subset`."""
        rows, chosen = draw_subset(self.rows, limit, seed)
        return Subset(rows, [self.indices[index] for index in chosen])

    def split(self, share: float) -> tuple[Subset, Subset]:
        """Two parts without a common cluster: ``share`` of the clusters and the others, the same for every seed.

        Raises:
            InputError: there are fewer than two clusters.
        """
        clusters = sorted({row.cluster for row in self.rows})
        if len(clusters) < 2:
            way_out = "give more rows, or take the two from different sources"
            raise InputError("rows to protect and to evaluate", "at least two images", str(len(clusters)), way_out)
        order = np.random.default_rng(_SPLIT).permutation(len(clusters))
        first = {clusters[index] for index in order[: max(1, round(share * len(clusters)))]}
        parts = [
            [index for index, row in enumerate(self.rows) if (row.cluster in first) == wanted]
            for wanted in (True, False)
        ]
        one, other = (Subset([self.rows[i] for i in part], [self.indices[i] for i in part]) for part in parts)
        return one, other


class RowStream:
    """Batches of training rows as a pure function of seed and batch number, so that resuming needs no state.

    Every epoch is a new permutation. Audio rows without an image get an unrelated one with probability
    ``image_share``; VL rows get an unrelated clip each or, with probability ``silence_share``, none.
    """

    def __init__(
        self, audio: Sequence[Row], vl: Sequence[Row], *, seed: int, image_share: float, silence_share: float = 0.0
    ) -> None:
        self.audio, self.vl = list(audio), list(vl)
        self.seed, self.image_share, self.silence_share = seed, image_share, silence_share

    def audio_batch(self, number: int, size: int) -> list[Row]:
        """The ``number``-th batch of audio rows."""
        rows = self._take(self.audio, _AUDIO_ORDER, number, size)
        rng = np.random.default_rng([self.seed, _IMAGES, number])
        show = rng.random(size) < self.image_share
        lent = rng.integers(len(self.vl), size=size)
        return [
            _with(row, image=self.vl[other].image) if shown and row.image is None else row
            for row, shown, other in zip(rows, show, lent, strict=True)
        ]

    def vl_batch(self, number: int, size: int) -> list[Row]:
        """The ``number``-th batch of VL rows, each with a distractor or none, which stands for silence."""
        rows = self._take(self.vl, _VL_ORDER, number, size)
        rng = np.random.default_rng([self.seed, _DISTRACTORS, number])
        lent = rng.integers(len(self.audio), size=size)
        silent = rng.random(size) < self.silence_share
        return [
            row if hushed else _with(row, audio=self.audio[other].audio)
            for row, other, hushed in zip(rows, lent, silent, strict=True)
        ]

    def _take(self, rows: list[Row], stream: int, number: int, size: int) -> list[Row]:
        start = number * size
        orders: dict[int, np.ndarray] = {}
        taken = []
        for position in range(start, start + size):
            epoch, offset = divmod(position, len(rows))
            if epoch not in orders:
                orders[epoch] = np.random.default_rng([self.seed, stream, epoch]).permutation(len(rows))
            taken.append(rows[orders[epoch][offset]])
        return taken


def with_distractors(rows: Sequence[Row], clips: Sequence[Path], seed: int) -> list[Row]:
    """The rows with clips that belong to other rows; a row never keeps the clip that it has.

    Raises:
        InputError: there are fewer than two different clips.
    """
    if len(set(clips)) < 2:
        raise InputError("distractors", "at least two different clips", str(len(set(clips))), "give more audio rows")
    rng = np.random.default_rng([seed, _DISTRACTORS])
    paired = []
    for row in rows:
        index = int(rng.integers(len(clips)))
        if clips[index] == row.audio:
            index = (index + 1 + int(rng.integers(len(clips) - 1))) % len(clips)
        paired.append(_with(row, audio=clips[index]))
    return paired


def _with(row: Row, *, image: Path | None = None, audio: Path | None = None) -> Row:
    return Row(row.row_id, row.question, row.answers, image or row.image, audio or row.audio, row.kind, row.cluster)
