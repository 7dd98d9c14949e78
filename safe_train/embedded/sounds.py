"""Procedural sounds: one to three low or high bells, buzzes, whistles, drums or chirps in two seconds of audio."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

SAMPLE_RATE = 16_000
CLIP_SECONDS = 2.0
KINDS = ("bell", "buzz", "whistle", "drum", "chirp")
PITCHES = ("low", "high")
COUNTS = ("one", "two", "three")
AUDIO_QUESTION = "what do you hear?"
_FUNDAMENTAL_HZ = {"low": 260.0, "high": 1040.0}


@dataclass(frozen=True)
class Sound:
    """What can be heard in a clip."""

    kind: str
    pitch: str
    count: int

    @property
    def caption(self) -> str:
        """The one sentence that describes the clip, for instance ``two low bell sounds``."""
        return f"{COUNTS[self.count - 1]} {self.pitch} {self.kind} sound{'s' if self.count > 1 else ''}"


ALL_SOUNDS = tuple(Sound(kind, pitch, count) for kind, pitch, count in product(KINDS, PITCHES, (1, 2, 3)))


def synthesize(sound: Sound, rng: np.random.Generator) -> np.ndarray:
    """Renders a clip: float32 [SAMPLE_RATE * CLIP_SECONDS] in -1..1, with random onsets, level, detuning and noise."""
    num_samples = int(SAMPLE_RATE * CLIP_SECONDS)
    clip = rng.normal(0.0, rng.uniform(0.001, 0.006), size=num_samples)
    slot = num_samples // 3
    for index in sorted(rng.permutation(3)[: sound.count]):
        event = _event(sound, rng)
        onset = index * slot + int(rng.integers(0, slot - len(event) - SAMPLE_RATE // 20))
        clip[onset : onset + len(event)] += event
    level = rng.uniform(0.35, 0.9) / max(np.abs(clip).max(), 1e-6)
    return (clip * level).astype(np.float32)


def _event(sound: Sound, rng: np.random.Generator) -> np.ndarray:
    """One occurrence of a sound, 0.36 to 0.44 s long."""
    seconds = rng.uniform(0.36, 0.44)
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    frequency = _FUNDAMENTAL_HZ[sound.pitch] * rng.uniform(0.92, 1.08)
    phase = 2 * np.pi * frequency * time
    fade = np.minimum(1.0, np.minimum(time, seconds - time) / 0.01)
    if sound.kind == "bell":
        partials = sum(np.sin(phase * ratio) / k for k, ratio in enumerate((1.0, 2.76, 5.4), start=1))
        return partials * np.exp(-7.0 * time) * fade
    if sound.kind == "buzz":
        return np.sign(np.sin(phase)) * 0.6 * fade
    if sound.kind == "whistle":
        return np.sin(phase + 6.0 * np.sin(2 * np.pi * 6.0 * time)) * fade
    if sound.kind == "drum":
        thump = np.sin(phase * 0.5 * np.exp(-3.0 * time)) + 0.7 * rng.normal(size=len(time))
        return thump * np.exp(-22.0 * time) * fade
    sweep = 2 * np.pi * frequency * (time + 1.4 * time**2 / seconds)
    return np.sin(sweep) * fade
