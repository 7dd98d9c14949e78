"""The score of guessing: the most common answer of a question's kind, without looking."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from safe_train.data.example import Example
from safe_train.metrics.vqa_accuracy import normalize_answer, vqa_accuracy


def majority_scores(examples: Sequence[Example]) -> list[float]:
    """What each example would score if it were given the answer most common among other clusters' examples of its kind.

    Answers are the examples' first references, normalized. Answers that are equally common are each given a share, and
    so is one that is the most common only while the example's own cluster counts: of answers that are as common as each
    other, leaving an example out would make its own the rarer one, and guessing would seem worse than it is. An example
    whose kind comes in no other cluster scores 0.
    """
    total: dict[str, Counter[str]] = defaultdict(Counter)
    own: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for example in examples:
        answer = normalize_answer(example.answers[0])
        total[example.kind][answer] += 1
        own[example.kind, example.cluster][answer] += 1
    levels = {kind: Counter(counts.values()) for kind, counts in total.items()}
    guesses = {key: _Guesses.of(total[key[0]], levels[key[0]], counts) for key, counts in own.items()}
    return [guesses[example.kind, example.cluster].score(example) for example in examples]


@dataclass(frozen=True)
class _Guesses:
    """What a cluster's examples of a kind are given, each answer a share; there may be thousands: none is listed.

    Attributes:
        total: how often each answer is given to questions of the kind.
        own: how often within the cluster.
        most: how often the most common answer is given outside of the cluster.
        number: of the answers.
        highest: how often the most common answer of all is given.
    """

    total: Mapping[str, int]
    own: Mapping[str, int]
    most: int
    number: int
    highest: int

    @classmethod
    def of(cls, total: Mapping[str, int], levels: Counter[int], own: Mapping[str, int]) -> _Guesses:
        """Of ``total``, with the number of answers that are given each number of times."""
        elsewhere = levels - Counter(total[answer] for answer in own)
        most = max([*elsewhere, *(total[answer] - count for answer, count in own.items())])
        found = cls(total, own, most, 0, max(levels))
        return replace(found, number=elsewhere[most] + sum(found.holds(answer) for answer in own))

    def holds(self, answer: str) -> bool:
        """Whether the answer is among them."""
        count = self.total.get(answer, 0)
        others = count - self.own.get(answer, 0)
        return others > 0 and (others == self.most or count == self.highest)

    def score(self, example: Example) -> float:
        """The mean score of the answers; only those that are among the references have any."""
        right = {answer for reference in example.answers if self.holds(answer := normalize_answer(reference))}
        total = sum(vqa_accuracy(answer, example.answers, normalize_unanimous=True) for answer in right)
        return total / self.number if right else 0.0
