"""What a metric of answers in words is: how it scores, what it needs, and how its values are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Metric:
    """A score of answers in words, question by question or caption by caption.

    A new metric is one definition and one line of :data:`safe_train.metrics.registry.METRICS`.

    Attributes:
        name: in settings and in results, such as ``token_f1``.
        label: for people, such as ``token F1``.
        score: from all predictions of a condition with their references to one value each, in their order. A metric
            that weighs words by the whole corpus needs all of them at once.
        highest: the value of a perfect answer; the lowest is 0. Results hold values divided by it.
        for_answers: whether ``evaluation.audio_metric`` may name it.
        for_captions: whether ``evaluation.caption_metrics`` computes it.
        least_captions: with fewer captions it has no value.
        obstacle: why it cannot be computed on this machine, in one line; None if it can.
        tokenizer: what splits captions, in words; values by different tokenizers do not compare.
        column: the field of a stored prediction that keeps its value; empty for one computed from the answers.
    """

    name: str
    label: str
    score: Callable[[Corpus], list[float]]
    highest: float = 1.0
    for_answers: bool = True
    for_captions: bool = False
    least_captions: int = 1
    obstacle: Callable[[], str | None] = lambda: None
    tokenizer: str = ""
    column: str = ""

    @property
    def is_share(self) -> bool:
        """Whether values run from 0 to 1 and are written in percent, changes of them in points."""
        return self.highest == 1.0

    @property
    def scale(self) -> float:
        """From a value in results, in 0..1, to what tables show."""
        return 100.0 if self.is_share else self.highest

    @property
    def digits(self) -> int:
        """After the decimal point, in tables."""
        return 1 if self.is_share else 2

    @property
    def unit(self) -> str:
        """After a value in a table."""
        return " %" if self.is_share else ""

    @property
    def unit_of_change(self) -> str:
        """Of a difference of two values."""
        return "points" if self.is_share else ""

    def shares(self, corpus: Corpus) -> list[float]:
        """The value of each prediction divided by the highest, in 0..1."""
        return [min(1.0, max(0.0, value / self.highest)) for value in corpus.scores(self)]


@dataclass(frozen=True)
class Corpus:
    """Predictions with their references; what one metric computes, another may use.

    Attributes:
        predictions: one text an example.
        references: the texts of people, at least one an example.
    """

    predictions: Sequence[str]
    references: Sequence[Sequence[str]]
    _scores: dict[str, list[float]] = field(default_factory=dict, repr=False, compare=False)

    def scores(self, metric: Metric) -> list[float]:
        """The values of a metric, computed once."""
        if metric.name not in self._scores:
            self._scores[metric.name] = metric.score(self)
        return self._scores[metric.name]


def score_each(score: Callable[[str, Sequence[str]], float]) -> Callable[[Corpus], list[float]]:
    """The ``score`` of a :class:`Metric` whose value of a prediction does not depend on the others."""

    def score_all(corpus: Corpus) -> list[float]:
        return [score(text, texts) for text, texts in zip(corpus.predictions, corpus.references, strict=True)]

    return score_all
