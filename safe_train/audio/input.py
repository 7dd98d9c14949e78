"""What an example hears: an audio file as it is, the same file louder or softer, white noise, or silence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from safe_train.audio.waveform import load_waveform

SYNTHETIC_SECONDS = 2.0
"""Length of silence and of white noise."""

LOUD_DB = 20.0
"""Gain of a clip that is called loud."""

NOISE_DB = -20.0
"""Level of the white noise in dB relative to full scale (RMS)."""

NOISE_SEEDS = 16
"""How many different stretches of white noise are drawn from."""


@dataclass(frozen=True)
class Amplified:
    """An audio file times ``10^(gain_db / 20)``; samples beyond full scale are cut, as a recording's would be."""

    path: Path
    gain_db: float


@dataclass(frozen=True)
class WhiteNoise:
    """Gaussian noise of root mean square ``10^(level_db / 20)``, the same for a seed at every call."""

    level_db: float
    seed: int


AudioInput = Path | Amplified | WhiteNoise
"""A ``None`` beside these stands for silence wherever audio is attached."""


def render_waveform(audio: AudioInput | None, sampling_rate: int, max_samples: int | None = None) -> Tensor:
    """Mono samples, float32 [samples], full scale 1; ``None`` gives zeros.

    Of a file no more than ``max_samples`` are decoded.

    Raises:
        InputError: the file cannot be read.
    """
    match audio:
        case None:
            return torch.zeros(int(SYNTHETIC_SECONDS * sampling_rate))
        case WhiteNoise(level_db, seed):
            generator = torch.Generator().manual_seed(seed)
            noise = torch.randn(int(SYNTHETIC_SECONDS * sampling_rate), generator=generator)
            return (noise * _factor(level_db)).clamp(-1.0, 1.0)
        case Amplified(path, gain_db):
            return (load_waveform(path, sampling_rate, max_samples) * _factor(gain_db)).clamp(-1.0, 1.0)
        case path:
            return load_waveform(path, sampling_rate, max_samples)


def describe(audio: AudioInput | None) -> str:
    """In a few words, for records: the path, the path with its gain, the noise with its level, or ``silence``."""
    match audio:
        case None:
            return "silence"
        case WhiteNoise(level_db, seed):
            return f"white noise {level_db:g} dB, seed {seed}"
        case Amplified(path, gain_db):
            return f"{path} {gain_db:+g} dB"
        case path:
            return str(path)


def _factor(decibels: float) -> float:
    return 10.0 ** (decibels / 20.0)
