"""Audio files as mono waveforms of one sampling rate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from safe_train.audio.file import AudioFile, open_audio
from safe_train.audio.resampling import resample, samples_needed
from safe_train.errors import InputError

SHORTEST_SECONDS = 0.025
"""Length of a window of analysis, in the spectrograms and the convolutions of speech models; less gives no feature."""

SOUND = "audio"
"""What is expected of a file without samples, by which the error is known."""

HEARABLE_LENGTH = f"a clip of at least {SHORTEST_SECONDS} s"
"""What is expected of a clip that is shorter, by which the error is known."""


class AudioLength(NamedTuple):
    """How long a file is, and its format in libsndfile's words."""

    seconds: float
    container: str


def load_waveform(path: Path, sample_rate: int, max_samples: int | None = None) -> Tensor:
    """Reads an audio file in a format of :mod:`~safe_train.audio.formats`; its content decides which.

    Channels are averaged, and another rate is resampled; see :func:`~safe_train.audio.resampling.resample`.

    Args:
        path: the file.
        sample_rate: the wanted rate in Hz.
        max_samples: samples at that rate after which nothing is heard. No more is decoded, so that memory and time do
            not depend on what follows; None for the whole file.

    Returns:
        float32 [samples], full scale is 1.

    Raises:
        InputError: the file is missing, unreadable, truncated, shorter than ``SHORTEST_SECONDS`` or without samples,
            has samples that are not finite, or a rate that is too low to hear anything.
    """
    with open_audio(path) as audio:
        shortest = math.ceil(SHORTEST_SECONDS * audio.rate)  # also of a shorter window, for it is the file that counts
        limit = None if max_samples is None else max(shortest, samples_needed(max_samples, audio.rate, sample_rate))
        blocks = list(_require_finite(path, audio.mono_blocks(limit)))
        mono = torch.from_numpy(np.concatenate([np.empty(0, np.float32), *blocks]))
        _require_hearable(path, audio, len(mono))
        return resample(mono, audio.rate, sample_rate)[:max_samples]


def read_audio_header(path: Path) -> float | None:
    """Finds out what tells at the opening of an audio file, and decodes nothing of it.

    Returns:
        Its seconds; None where only decoding shows them.

    Raises:
        InputError: as :func:`load_waveform`, but for what only decoding shows.
    """
    with open_audio(path) as audio:
        if audio.num_frames is None:
            return None
        _require_hearable(path, audio, audio.num_frames)
        return audio.num_frames / audio.rate


def measure(path: Path) -> AudioLength:
    """Decodes an audio file to its end, a piece at a time.

    Raises:
        InputError: as :func:`load_waveform`, which reads the file then.
    """
    with open_audio(path) as audio:
        num_frames = sum(len(block) for block in _require_finite(path, audio.mono_blocks()))
        _require_hearable(path, audio, num_frames)
        return AudioLength(num_frames / audio.rate, audio.container)


def _require_finite(path: Path, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    for block in blocks:
        if num_bad := int((~np.isfinite(block)).sum()):
            got = f"{num_bad} that are NaN or infinite"
            raise InputError(path, "finite samples", got, "write the file again")
        yield block


def _require_hearable(path: Path, audio: AudioFile, num_frames: int) -> None:
    if not num_frames:
        got = f"{audio.container} of {path.stat().st_size} bytes that says it has no samples"
        raise InputError(path, SOUND, got, "replace or remove the file")
    if num_frames < SHORTEST_SECONDS * audio.rate:
        got = f"{num_frames} samples at {audio.rate} Hz"
        raise InputError(path, HEARABLE_LENGTH, got, "lengthen the clip or remove its entry")
