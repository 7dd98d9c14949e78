"""What a majority answer scores: accuracy without looking at the image, or without knowing anything."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple


class Asked(NamedTuple):
    """A question by what an answer may depend on, its type and its answer."""

    key: str
    kind: str
    answer: str


def score_majority(train: Iterable[Asked], val: Iterable[Asked]) -> dict[str, float]:
    """Accuracy on ``val``, in all and by type, of the most frequent answer in ``train`` to the same key.

    Of equally frequent answers the first in the alphabet is given; to a key that ``train`` lacks, none.
    """
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for asked in train:
        answers[asked.key][asked.answer] += 1
    best = {key: min(counts, key=lambda answer: (-counts[answer], answer)) for key, counts in answers.items()}
    right: dict[str, list[bool]] = defaultdict(list)
    for asked in val:
        for kind in ("all", asked.kind):
            right[kind].append(best.get(asked.key) == asked.answer)
    return {kind: round(sum(each) / len(each), 4) for kind, each in sorted(right.items())}
