"""The conditions of an evaluation: what the rows hear, and how far the gate is open."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from safe_train.audio.input import LOUD_DB, NOISE_DB, NOISE_SEEDS, Amplified, AudioInput, WhiteNoise
from safe_train.data.example import Example
from safe_train.errors import InputError, nearest
from safe_train.metrics.vqa_accuracy import normalize_answer

WORST_OF = 4
GAINS_DB = (-20.0, -10.0, 10.0)
GATES = (0.25, 0.5, 0.75)

_STREAM = 2  # the random numbers of an evaluation's distractors, apart from those of its subsets


class Distractors:
    """Clips for rows that they do not belong to, drawn by a seed.

    Attributes:
        clips: the audio files to draw from, each once.

    Raises:
        InputError: there are fewer than two different clips.
    """

    def __init__(self, audio_rows: Sequence[Example], seed: int) -> None:
        self.clips = list(dict.fromkeys(row.audio for row in audio_rows if isinstance(row.audio, Path)))
        if len(self.clips) < 2:
            got = str(len(self.clips))
            raise InputError("distractors", "at least two different clips", got, "give more audio rows")
        self._seed = seed
        self._position = {clip: position for position, clip in enumerate(self.clips)}
        self._said: dict[Path, set[str]] = defaultdict(set)
        for row in audio_rows:
            if isinstance(row.audio, Path):
                self._said[row.audio] |= {word for answer in row.answers for word in normalize_answer(answer).split()}

    def unrelated(self, rows: Sequence[Example], draw: int = 0) -> list[Path]:
        """One clip a row, never the row's own; another ``draw`` gives another clip where there are three or more."""
        draws = np.random.default_rng([self._seed, _STREAM]).random(len(rows))
        chosen = []
        for number, row in zip(draws, rows, strict=True):
            own = self._position.get(row.audio) if isinstance(row.audio, Path) else None
            others = len(self.clips) - (own is not None)
            place = (int(number * others) + draw) % others
            chosen.append(self.clips[place + (own is not None and place >= own)])
        return chosen

    def contradicting(self, rows: Sequence[Example]) -> list[Path | None]:
        """For each row a clip whose caption names another answer to that kind of question, None where there is none.

        "Two low bells" contradicts the answer 3 to "how many shapes": both 2 and 3 answer questions of that kind. No
        clip contradicts a document, which answers nothing.
        """
        vocabulary: dict[str, set[str]] = defaultdict(set)
        for row in rows:
            if not row.is_document:
                vocabulary[row.kind].add(normalize_answer(row.answers[0]))
        rng = np.random.default_rng([self._seed, _STREAM, 1])
        draws = rng.random(len(rows))
        fitting: dict[tuple[str, str], list[Path]] = {}
        found: list[Path | None] = []
        for row, draw in zip(rows, draws, strict=True):
            if row.is_document:
                found.append(None)
                continue
            key = (row.kind, normalize_answer(row.answers[0]))
            if key not in fitting:
                wrong = vocabulary[row.kind] - {normalize_answer(answer) for answer in row.answers}
                right = set(key[1].split())
                fitting[key] = [c for c in self.clips if self._said[c] & wrong and not self._said[c] & right]
            clips = fitting[key]
            found.append(clips[int(draw * len(clips))] if clips else None)
        return found


RowsOf = Callable[[Sequence[Example], Distractors, int], list[Example]]
"""From all rows to those of a condition with what they hear; the number counts the draws of a repeated condition."""


@dataclass(frozen=True)
class Condition:
    """What rows hear.

    Attributes:
        description: for people.
        rows: gives the rows of a draw.
        gate: the gate during the condition.
        attach: whether audio is attached at all; only the bypass has none.
        draws: how often all rows are answered, each time with other clips; the worst answer of a row counts.
        repeats: the condition that the first draw is; its answers are then not asked for again.
    """

    description: str
    rows: RowsOf
    gate: float = 1.0
    attach: bool = True
    draws: int = 1
    repeats: str = ""

    def stored_as(self, name: str, draw: int) -> str:
        """The name under which the answers of a draw are kept."""
        name = self.repeats or name
        return f"{name}.{draw}" if draw else name


def _as_they_are(rows: Sequence[Example], _distractors: Distractors, _draw: int) -> list[Example]:
    return list(rows)


def _silent(rows: Sequence[Example], _distractors: Distractors, _draw: int) -> list[Example]:
    return [replace(row, audio=None) for row in rows]


def _unrelated(rows: Sequence[Example], distractors: Distractors, draw: int) -> list[Example]:
    return [replace(row, audio=clip) for row, clip in zip(rows, distractors.unrelated(rows, draw), strict=True)]


def _contradicted(rows: Sequence[Example], distractors: Distractors, _draw: int) -> list[Example]:
    pairs = zip(rows, distractors.contradicting(rows), strict=True)
    return [replace(row, audio=clip) for row, clip in pairs if clip is not None]


def _in_noise(rows: Sequence[Example], _distractors: Distractors, _draw: int) -> list[Example]:
    return [replace(row, audio=WhiteNoise(NOISE_DB, index % NOISE_SEEDS)) for index, row in enumerate(rows)]


def _at_gain(gain_db: float, rows_of: RowsOf) -> RowsOf:
    def rows_at_gain(rows: Sequence[Example], distractors: Distractors, draw: int) -> list[Example]:
        return [replace(row, audio=_amplified(row.audio, gain_db)) for row in rows_of(rows, distractors, draw)]

    return rows_at_gain


def _amplified(audio: AudioInput | None, gain_db: float) -> AudioInput | None:
    return Amplified(audio, gain_db) if isinstance(audio, Path) else audio


VL_CONDITIONS: Mapping[str, Condition] = MappingProxyType(
    {
        "bypass": Condition("no audio attached: the base, bit for bit", _as_they_are, attach=False),
        "silence": Condition("two seconds of zeros", _silent),
        "distractor": Condition("an unrelated clip", _unrelated),
        "contradictory": Condition("a clip whose caption names a wrong answer to the question", _contradicted),
        "loud": Condition(f"an unrelated clip, {LOUD_DB:+g} dB, cut at full scale", _at_gain(LOUD_DB, _unrelated)),
        "noise": Condition(f"white noise of {NOISE_DB:g} dB", _in_noise),
        f"worst_of_{WORST_OF}": Condition(
            f"the worst answer under {WORST_OF} unrelated clips", _unrelated, draws=WORST_OF, repeats="distractor"
        ),
    }
    | {f"gain_{db:+g}": Condition(f"an unrelated clip, {db:+g} dB", _at_gain(db, _unrelated)) for db in GAINS_DB}
    | {f"gate_{gate:g}": Condition(f"an unrelated clip, gate {gate:g}", _unrelated, gate=gate) for gate in GATES}
)
"""Conditions on VL rows, and on text-only rows, by name."""

AUDIO_CONDITIONS: Mapping[str, Condition] = MappingProxyType(
    {
        "matched": Condition("the row's own clip", _as_they_are),
        "silence": Condition("two seconds of zeros", _silent),
        "distractor": Condition("another row's clip", _unrelated),
        "loud": Condition(f"the row's own clip, {LOUD_DB:+g} dB", _at_gain(LOUD_DB, _as_they_are)),
    }
    | {f"gain_{db:+g}": Condition(f"the row's own clip, {db:+g} dB", _at_gain(db, _as_they_are)) for db in GAINS_DB}
    | {f"gate_{gate:g}": Condition(f"the row's own clip, gate {gate:g}", _as_they_are, gate=gate) for gate in GATES}
)
"""Conditions on audio rows by name."""


@dataclass(frozen=True)
class Selection:
    """Names of the conditions to run, each in the order of its registry."""

    vl: tuple[str, ...]
    audio: tuple[str, ...]

    @property
    def text(self) -> tuple[str, ...]:
        """Those on text-only rows, which are those on VL rows."""
        return self.vl


def select(names: Sequence[str]) -> Selection:
    """The conditions of these names on both kinds of rows; ``all`` stands for every one.

    The bypass and, on audio rows, matched clips and silence are always among them: without these nothing can be said.

    Raises:
        InputError: a name is unknown.
    """
    known = list(dict.fromkeys([*VL_CONDITIONS, *AUDIO_CONDITIONS]))
    for name in names:
        if name != "all" and name not in known:
            hint = nearest(name, known)
            hint = f"did you mean {hint!r}?" if hint else "name one of them"
            raise InputError("--conditions", f"all or some of {', '.join(known)}", repr(name), hint)
    wanted = set(known if "all" in names else names)
    return Selection(
        vl=tuple(name for name in VL_CONDITIONS if name in wanted | {"bypass"}),
        audio=tuple(name for name in AUDIO_CONDITIONS if name in wanted | {"matched", "silence"}),
    )
