"""Distractor clips for examples: unrelated ones, and ones that contradict the answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from safe_train.data.example import Example
from safe_train.errors import InputError
from safe_train.metrics.vqa_accuracy import normalize_answer

_STREAM = 2  # the random numbers of an evaluation's distractors, apart from those of its subsets


class Distractors:
    """Distractor clips for examples, drawn by a seed.

    Attributes:
        clips: the audio files to draw from, each once.

    Raises:
        InputError: there are fewer than two different clips.
    """

    def __init__(self, audio_examples: Sequence[Example], seed: int) -> None:
        self.clips = list(dict.fromkeys(example.audio for example in audio_examples if isinstance(example.audio, Path)))
        if len(self.clips) < 2:
            got = str(len(self.clips))
            raise InputError("distractors", "at least two different clips", got, "give more audio examples")
        self._seed = seed
        self._position = {clip: position for position, clip in enumerate(self.clips)}
        self._said: dict[Path, set[str]] = defaultdict(set)
        for example in audio_examples:
            if isinstance(example.audio, Path):
                words = {word for answer in example.answers for word in normalize_answer(answer).split()}
                self._said[example.audio] |= words

    def unrelated(self, examples: Sequence[Example], draw: int = 0) -> list[Path]:
        """One clip per example, never its own; another ``draw`` gives another clip where there are three or more."""
        draws = np.random.default_rng([self._seed, _STREAM]).random(len(examples))
        chosen = []
        for number, example in zip(draws, examples, strict=True):
            own = self._position.get(example.audio) if isinstance(example.audio, Path) else None
            others = len(self.clips) - (own is not None)
            place = (int(number * others) + draw) % others
            chosen.append(self.clips[place + (own is not None and place >= own)])
        return chosen

    def contradicting(self, examples: Sequence[Example]) -> list[Path | None]:
        """A clip per example whose caption names another answer to that kind of question, or None.

        "Two low bells" contradicts the answer 3 to "how many shapes": both 2 and 3 answer questions of that kind. No
        clip contradicts a document, which answers nothing.
        """
        vocabulary: dict[str, set[str]] = defaultdict(set)
        for example in examples:
            if not example.is_document:
                vocabulary[example.kind].add(normalize_answer(example.answers[0]))
        rng = np.random.default_rng([self._seed, _STREAM, 1])
        draws = rng.random(len(examples))
        fitting: dict[tuple[str, str], list[Path]] = {}
        found: list[Path | None] = []
        for example, draw in zip(examples, draws, strict=True):
            if example.is_document:
                found.append(None)
                continue
            key = (example.kind, normalize_answer(example.answers[0]))
            if key not in fitting:
                wrong = vocabulary[example.kind] - {normalize_answer(answer) for answer in example.answers}
                right = set(key[1].split())
                fitting[key] = [c for c in self.clips if self._said[c] & wrong and not self._said[c] & right]
            clips = fitting[key]
            found.append(clips[int(draw * len(clips))] if clips else None)
        return found
