"""Draws the examples of each step as a function of only seed and step, so that resuming needs no state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from safe_train.audio.input import LOUD_DB, NOISE_DB, NOISE_SEEDS, Amplified, AudioInput, WhiteNoise
from safe_train.data.datasets.registry import ExampleKind
from safe_train.data.example import CAPTION, Example
from safe_train.errors import InputError

# Streams of random numbers that must not depend on each other.
(
    _AUDIO_ORDER,
    _VL_ORDER,
    _DISTRACTORS,
    _IMAGES,
    _SUBSET,
    _SPLIT,
    _SHUFFLE,
    _TEXT_ORDER,
    _AUDIO_GAINS,
    _PROTECTED_GAINS,
    _CAPTIONS,
) = range(11)


def draw_subset(examples: Sequence[Example], limit: int | None, seed: int) -> tuple[list[Example], list[int]]:
    """At most ``limit`` examples and their indices, ascending; the same for every variant of a seed."""
    if limit is None or limit >= len(examples):
        return list(examples), list(range(len(examples)))
    indices = np.sort(np.random.default_rng([seed, _SUBSET]).permutation(len(examples))[:limit]).tolist()
    return [examples[index] for index in indices], indices


@dataclass(frozen=True)
class Subset:
    """Examples and their indices among all examples of their source.

    Attributes:
        rows: the examples.
        indices: one per example, ascending.
    """

    rows: list[Example]
    indices: list[int]

    @classmethod
    def whole(cls, examples: list[Example]) -> Subset:
        """All examples."""
        return cls(examples, list(range(len(examples))))

    def draw(self, limit: int | None, seed: int) -> Subset:
        """At most ``limit`` of the examples; see :func:`draw_subset`."""
        examples, chosen = draw_subset(self.rows, limit, seed)
        return Subset(examples, [self.indices[index] for index in chosen])

    def split(self, share: float, *, of: str = "images") -> tuple[Subset, Subset]:
        """Two parts without a common cluster: ``share`` of the clusters and the others, the same for every seed.

        Args:
            share: of the clusters, the first part's.
            of: what the clusters are, for the error's message.

        Raises:
            InputError: there are fewer than two clusters.
        """
        clusters = sorted({example.cluster for example in self.rows})
        if len(clusters) < 2:
            hint = "give more examples, or take the two from different sources"
            raise InputError("examples to protect and to evaluate", f"at least two {of}", str(len(clusters)), hint)
        order = np.random.default_rng(_SPLIT).permutation(len(clusters))
        first = {clusters[index] for index in order[: max(1, round(share * len(clusters)))]}
        parts = [
            [index for index, example in enumerate(self.rows) if (example.cluster in first) == wanted]
            for wanted in (True, False)
        ]
        one, other = (Subset([self.rows[i] for i in part], [self.indices[i] for i in part]) for part in parts)
        return one, other


def length_buckets(examples: Sequence[Example]) -> list[list[Example]]:
    """Examples without and with an image, which is hundreds of tokens of most bases; no group is empty."""
    groups = ([example for example in examples if (example.image is not None) == shown] for shown in (False, True))
    return [group for group in groups if group]


@dataclass(frozen=True)
class RetentionAudio:
    """Shares of the audio attached to retention examples; the rest get an unrelated clip unchanged.

    Attributes:
        silence: share with silent audio.
        loud: share with an unrelated clip ``LOUD_DB`` louder.
        noise: share with white noise of ``NOISE_DB``.
    """

    silence: float = 0.0
    loud: float = 0.0
    noise: float = 0.0

    def choose(self, clip: AudioInput | None, draw: float, seed: int) -> AudioInput | None:
        """The audio of an example for a number drawn from [0, 1)."""
        if draw < self.silence:
            return None
        if draw < self.silence + self.loud and isinstance(clip, Path):
            return Amplified(clip, LOUD_DB)
        if self.silence + self.loud <= draw < self.silence + self.loud + self.noise:
            return WhiteNoise(NOISE_DB, seed % NOISE_SEEDS)
        return clip


class Mixture:
    """Examples of one kind in the order in which they are drawn: of several sources, each by its share.

    Of the first n draws a source has its share of n to within an example or two, and goes through its own examples
    in permutations of its own, a new one for each epoch of it. With ``draw_captions``, the caption of a clip that comes
    first, on which is trained, is another in each of them. All of this is a function of the seed and of n.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        seed: int,
        stream: int,
        parts: Sequence[tuple[int, float]] = (),
        *,
        draw_captions: bool = False,
    ) -> None:
        """Takes the examples of all sources, one source behind the other.

        Args:
            examples: of all sources.
            seed: the run's.
            stream: of random numbers.
            parts: for each source how many of the examples are its own, and its weight; none for a single source.
            draw_captions: whether one of several captions is drawn; otherwise it is the first.
        """
        self._draw_captions = draw_captions
        self.examples, self._seed, self._stream = list(examples), seed, stream
        self._weights = [weight for _, weight in parts] or [1.0]
        ends = np.cumsum([count for count, _ in parts] or [len(self.examples)]).tolist()
        self._sources = [self.examples[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def take(self, start: int, size: int) -> list[Example]:
        """So many draws from the ``start``-th on, source by source."""
        before, behind = self._counts(start), self._counts(start + size)
        return [
            example
            for source, (first, last) in enumerate(zip(before, behind, strict=True))
            for example in self._of_source(source, first, last)
        ]

    def _counts(self, position: int) -> list[int]:
        """How many of the first draws each source has: rounded, source after source, of what is left."""
        counts, left = [], sum(self._weights)
        for weight in self._weights[:-1]:
            counts.append(math.floor((position - sum(counts)) * weight / left + 0.5))
            left -= weight
        return [*counts, position - sum(counts)]

    def _of_source(self, source: int, first: int, last: int) -> list[Example]:
        examples, orders, captions, taken = self._sources[source], {}, {}, []
        own = [source] if source else []  # the first draws as a single source does
        for position in range(first, last):
            epoch, offset = divmod(position, len(examples))
            if epoch not in orders:
                generator = np.random.default_rng([self._seed, self._stream, epoch, *own])
                orders[epoch] = generator.permutation(len(examples))
                captions[epoch] = np.random.default_rng([self._seed, _CAPTIONS, epoch, *own]).random(len(examples))
            index = orders[epoch][offset]
            example = examples[index]
            taken.append(_with_caption(example, captions[epoch][index]) if self._draw_captions else example)
        return taken


def _with_caption(example: Example, draw: float) -> Example:
    """A clip to be described, with the caption first that a number from 0 to 1 selects; others as they are."""
    answers = example.answers
    if example.kind != CAPTION or len(answers) < 2:
        return example
    chosen = int(draw * len(answers))
    return replace(example, answers=(answers[chosen], *answers[:chosen], *answers[chosen + 1 :]))


class ExampleSampler:
    """Batches of training examples as a pure function of seed and batch number, so that resuming needs no state.

    Every epoch is a new permutation. Audio examples without an image get an unrelated one with probability
    ``image_prob`` and, with ``shuffle_audio``, another example's clip; retention examples get audio as
    ``retention_audio`` says. With ``gains_db``, every unaltered clip is played at its own level or at one of these
    gains, with equal probability.
    """

    def __init__(
        self,
        audio: Sequence[Example],
        vl: Sequence[Example],
        text: Sequence[Example] = (),
        *,
        seed: int,
        image_prob: float,
        text_ratio: float = 0.5,
        retention_audio: RetentionAudio = RetentionAudio(),
        gains_db: Sequence[float] = (),
        shuffle_audio: bool = False,
        mixtures: Mapping[ExampleKind, Sequence[tuple[int, float]]] = MappingProxyType({}),
        draw_captions: bool = False,
    ) -> None:
        """Takes the examples, and of kinds with several sources (``audio``, ``vl``, ``text``) how they are mixed."""
        self.audio, self.vl, self.text = list(audio), list(vl), list(text)
        self.seed, self.image_prob, self.retention_audio = seed, image_prob, retention_audio
        self.text_ratio = text_ratio if self.text else 0.0
        self.gains_db = (0.0, *gains_db)
        if shuffle_audio:
            order = np.random.default_rng([seed, _SHUFFLE]).permutation(len(self.audio))
            self.audio = [
                replace(example, audio=self.audio[i].audio) for example, i in zip(self.audio, order, strict=True)
            ]
        self._audio = Mixture(self.audio, seed, _AUDIO_ORDER, mixtures.get("audio", ()), draw_captions=draw_captions)
        self._vl = Mixture(self.vl, seed, _VL_ORDER, mixtures.get("vl", ()))
        self._text = Mixture(self.text, seed, _TEXT_ORDER, mixtures.get("text", ()))

    def first_rows(self, count: int) -> list[Example]:
        """The first ``count`` of each kind in training order, or all if fewer, each with its own unaltered clip."""
        return [
            example
            for mixture in (self._audio, self._vl)
            for example in mixture.take(0, min(count, len(mixture.examples)))
        ]

    def audio_batch(self, number: int, size: int) -> list[Example]:
        """The ``number``-th batch of audio examples."""
        examples = self._audio.take(number * size, size)
        rng = np.random.default_rng([self.seed, _IMAGES, number])
        show = rng.random(size) < self.image_prob
        lent = rng.integers(len(self.vl), size=size)
        examples = [
            replace(example, image=self.vl[other].image) if shown and example.image is None else example
            for example, shown, other in zip(examples, show, lent, strict=True)
        ]
        return self._amplify(examples, _AUDIO_GAINS, number)

    def retention_batch(self, number: int, size: int) -> list[Example]:
        """The ``number``-th batch of retention examples with their audio; None means silence.

        Of all retention examples up to a batch's end, ``text_ratio`` are text-only, rounded to a whole example, so that
        a batch too small for one has one now and then. VL examples come first.
        """
        text_start, text_end = self._count_text_before(number * size), self._count_text_before((number + 1) * size)
        num_text = text_end - text_start
        examples = self._vl.take(number * size - text_start, size - num_text)
        examples += self._text.take(text_start, num_text)
        rng = np.random.default_rng([self.seed, _DISTRACTORS, number])
        lent = rng.integers(len(self.audio), size=size)
        draws = rng.random(size)
        hearing = [
            replace(example, audio=self.retention_audio.choose(self.audio[other].audio, draw, int(other)))
            for example, other, draw in zip(examples, lent, draws, strict=True)
        ]
        return self._amplify(hearing, _PROTECTED_GAINS, number)

    def _count_text_before(self, position: int) -> int:
        """How many of the first so many retention examples are text-only."""
        return math.floor(position * self.text_ratio + 0.5)

    def _amplify(self, examples: list[Example], stream: int, number: int) -> list[Example]:
        if len(self.gains_db) == 1:
            return examples
        drawn = np.random.default_rng([self.seed, stream, number]).integers(len(self.gains_db), size=len(examples))
        gains = [self.gains_db[index] for index in drawn]
        return [
            replace(example, audio=Amplified(example.audio, gain))
            if gain and isinstance(example.audio, Path)
            else example
            for example, gain in zip(examples, gains, strict=True)
        ]
