"""The conditions of an evaluation: the audio that plays and the gate.

A new condition is one definition and one line in :data:`CONDITIONS`; the evaluator, the tables, the report and the
model card read that registry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from safe_train.audio.input import LOUD_DB, NOISE_DB, NOISE_SEEDS, Amplified, AudioInput, WhiteNoise
from safe_train.data.example import Example
from safe_train.errors import InputError, nearest
from safe_train.evaluation.distractors import Distractors
from safe_train.evaluation.predictions import Kind

_DRAWS = 4

Figure = TypeVar("Figure")

ExamplesOf = Callable[[Sequence[Example], Distractors, int], list[Example]]
"""From all examples to those of a condition with their audio; the number counts the draws of a repeated condition."""


@dataclass(frozen=True)
class Playback:
    """The audio that plays with examples of one kind.

    Attributes:
        description: text for tables and reports, such as ``an unrelated clip``.
        examples: returns the examples of a draw with their audio.
    """

    description: str
    examples: ExamplesOf


@dataclass(frozen=True)
class Condition:
    """The audio that plays and the gate.

    Attributes:
        name: on the command line, in results and in tables.
        vl: what plays with VL and text-only examples; None if the condition is not for them.
        audio: what plays with audio examples; None if the condition is not for them.
        gate: scales the model's gate.
        attach: whether audio is attached at all; without it the model must be the base.
        gain_db: gain of the clip; places the condition on the loudness sweep.
        draws: number of times all examples are answered, each with different clips; an example's worst answer counts.
        first_draw: the condition that equals the first draw; its answers are reused.
        standard: whether "every condition" includes it; runs without it are reported as not having measured it.
        required_for: the kinds of examples on which it is always evaluated, since the results need it.
        sweep: the report's chart in which it is a point.
        column: place in the report's first table, lower ones first; None to leave it to the other tables and charts.
    """

    name: str
    vl: Playback | None = None
    audio: Playback | None = None
    gate: float = 1.0
    attach: bool = True
    gain_db: float = 0.0
    draws: int = 1
    first_draw: str = ""
    standard: bool = False
    required_for: tuple[Kind, ...] = ()
    sweep: Literal["gate", "gain"] | None = None
    column: int | None = 2

    @property
    def is_retention(self) -> bool:
        """Whether a loss on VL or text-only examples counts: audio is attached and the gate fully open."""
        return self.attach and self.gate == 1.0

    def is_for(self, kind: Kind) -> bool:
        """Whether examples of this kind can be evaluated under it."""
        return self._playback(kind) is not None

    def playback(self, kind: Kind) -> Playback:
        """What plays with examples of this kind.

        Raises:
            ValueError: the condition is not for them.
        """
        found = self._playback(kind)
        if found is None:
            raise ValueError(f"condition {self.name}: expected examples that it is for, got {kind} examples")
        return found

    def describe(self, kind: Kind) -> str:
        """What plays, in a few words; empty for examples that it is not for."""
        found = self._playback(kind)
        return "" if found is None else found.description

    def stored_as(self, draw: int) -> str:
        """The name under which the answers of a draw are stored."""
        name = self.first_draw or self.name
        return f"{name}.{draw}" if draw else name

    def _playback(self, kind: Kind) -> Playback | None:
        return self.audio if kind == "audio" else self.vl


def _leave(examples: Sequence[Example], _distractors: Distractors, _draw: int) -> list[Example]:
    return list(examples)


def _silence(examples: Sequence[Example], _distractors: Distractors, _draw: int) -> list[Example]:
    return [replace(example, audio=None) for example in examples]


def _distract(examples: Sequence[Example], distractors: Distractors, draw: int) -> list[Example]:
    clips = distractors.unrelated(examples, draw)
    return [replace(example, audio=clip) for example, clip in zip(examples, clips, strict=True)]


def _contradict(examples: Sequence[Example], distractors: Distractors, _draw: int) -> list[Example]:
    pairs = zip(examples, distractors.contradicting(examples), strict=True)
    return [replace(example, audio=clip) for example, clip in pairs if clip is not None]


def _play_noise(examples: Sequence[Example], _distractors: Distractors, _draw: int) -> list[Example]:
    return [replace(ex, audio=WhiteNoise(NOISE_DB, index % NOISE_SEEDS)) for index, ex in enumerate(examples)]


def _amplify(gain_db: float, examples_of: ExamplesOf) -> ExamplesOf:
    def amplify_all(examples: Sequence[Example], distractors: Distractors, draw: int) -> list[Example]:
        chosen = examples_of(examples, distractors, draw)
        return [replace(example, audio=_amplify_clip(example.audio, gain_db)) for example in chosen]

    return amplify_all


def _amplify_clip(audio: AudioInput | None, gain_db: float) -> AudioInput | None:
    return Amplified(audio, gain_db) if isinstance(audio, Path) else audio


def _gain(gain_db: float) -> Condition:
    return Condition(
        f"gain_{gain_db:+g}",
        vl=Playback(f"an unrelated clip, {gain_db:+g} dB", _amplify(gain_db, _distract)),
        audio=Playback(f"the example's own clip, {gain_db:+g} dB", _amplify(gain_db, _leave)),
        gain_db=gain_db,
        sweep="gain",
        column=None,
    )


def _gate(gate: float) -> Condition:
    return Condition(
        f"gate_{gate:g}",
        vl=Playback(f"an unrelated clip, gate {gate:g}", _distract),
        audio=Playback(f"the example's own clip, gate {gate:g}", _leave),
        gate=gate,
        sweep="gate",
        column=None,
    )


BYPASS = Condition(
    "bypass",
    vl=Playback("no audio attached: the base, bit for bit", _leave),
    attach=False,
    required_for=("vl", "text"),
    column=0,
)
MATCHED = Condition("matched", audio=Playback("the example's own clip", _leave), required_for=("audio",))
_ZEROS = Playback("two seconds of zeros", _silence)
SILENCE = Condition("silence", vl=_ZEROS, audio=_ZEROS, standard=True, required_for=("audio",))
DISTRACTOR = Condition(
    "distractor",
    vl=Playback("an unrelated clip", _distract),
    audio=Playback("another example's clip", _distract),
    standard=True,
)
CONTRADICTORY = Condition(
    "contradictory",
    vl=Playback("a clip whose caption names a wrong answer to the question", _contradict),
    standard=True,
)
LOUD = Condition(
    "loud",
    vl=Playback(f"an unrelated clip, {LOUD_DB:+g} dB, clipped at full scale", _amplify(LOUD_DB, _distract)),
    audio=Playback(f"the example's own clip, {LOUD_DB:+g} dB", _amplify(LOUD_DB, _leave)),
    gain_db=LOUD_DB,
    standard=True,
    sweep="gain",
)
NOISE = Condition("noise", vl=Playback(f"white noise of {NOISE_DB:g} dB", _play_noise), standard=True)
WORST_OF = Condition(
    f"worst_of_{_DRAWS}",
    vl=Playback(f"the worst answer under {_DRAWS} unrelated clips", _distract),
    draws=_DRAWS,
    first_draw=DISTRACTOR.name,
    standard=True,
    column=1,
)

CONDITIONS: dict[str, Condition] = {
    condition.name: condition
    for condition in (
        BYPASS,
        MATCHED,
        SILENCE,
        DISTRACTOR,
        CONTRADICTORY,
        LOUD,
        NOISE,
        WORST_OF,
        *(_gain(gain_db) for gain_db in (-20.0, -10.0, 10.0)),
        *(_gate(gate) for gate in (0.25, 0.5, 0.75)),
    )
}
"""Every condition by its name, in the order of tables."""


def conditions_for(kind: Kind) -> dict[str, Condition]:
    """The conditions for examples of a kind by their names, in the order of the registry."""
    return {name: condition for name, condition in CONDITIONS.items() if condition.is_for(kind)}


def find_condition(name: str) -> Condition:
    """The condition of results.

    A name that is not registered, as results of another version may have it, counts as one with audio attached and the
    gate open, so that a loss under it is not passed over.
    """
    return CONDITIONS.get(name) or Condition(name)


def keep_retention(figures: Mapping[str, Figure]) -> dict[str, Figure]:
    """Of figures by condition those of retention conditions: a loss under them counts."""
    return {name: figure for name, figure in figures.items() if find_condition(name).is_retention}


def standard_names() -> list[str]:
    """The conditions that "every condition" means; the others are sweeps."""
    return [condition.name for condition in CONDITIONS.values() if condition.standard]


def sort_names(names: Sequence[str]) -> list[str]:
    """Each name once, registered ones first and in their order."""
    present = list(dict.fromkeys(names))
    return [name for name in CONDITIONS if name in present] + [name for name in present if name not in CONDITIONS]


@dataclass(frozen=True)
class Selection:
    """Names of the conditions to run, each in the order of the registry."""

    vl: tuple[str, ...]
    audio: tuple[str, ...]

    @property
    def text(self) -> tuple[str, ...]:
        """Those on text-only examples, which are those on VL examples."""
        return self.vl


def select(names: Sequence[str]) -> Selection:
    """The conditions of these names on both kinds of examples; ``all`` means every one.

    Those that an evaluation cannot do without are always among them; see ``Condition.required_for``.

    Raises:
        InputError: a name is unknown.
    """
    for name in names:
        if name != "all" and name not in CONDITIONS:
            hint = nearest(name, CONDITIONS)
            hint = f"did you mean {hint!r}?" if hint else "name one of them"
            raise InputError("--conditions", f"all or some of {', '.join(CONDITIONS)}", repr(name), hint)
    wanted = set(CONDITIONS if "all" in names else names)

    def chosen(kind: Kind) -> tuple[str, ...]:
        found = conditions_for(kind)
        return tuple(name for name, c in found.items() if name in wanted or kind in c.required_for)

    return Selection(vl=chosen("vl"), audio=chosen("audio"))
