"""Clips as users and data sets hand them over: files, and arrays with their sampling rate."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from safe_train.audio.file import HEARABLE_RATE, LOWEST_RATE
from safe_train.audio.resampling import resample, samples_needed
from safe_train.audio.waveform import HEARABLE_LENGTH, SHORTEST_SECONDS, load_waveform
from safe_train.errors import InputError

Clip: TypeAlias = "str | Path | np.ndarray | Tensor | Mapping[str, Any] | Any"
"""What can be heard: a file; an array [samples] or [channels, samples] of floats, full scale 1, or of integers of 8
(unsigned), 16 or 32 bits as WAV files hold them; such an array as
``{"array": ..., "sampling_rate": ...}``; or a decoder with ``get_all_samples()``. `datasets` gives the last two.
"""

_WHERE = "audio"
_FULL_SCALE = {torch.uint8: (128, 128), torch.int16: (0, 2**15), torch.int32: (0, 2**31)}
"""Of the integers of WAV files, the value of silence and the distance of full scale from it."""


def is_url(source: str | Path) -> bool:
    """Whether a text is an address and no path."""
    return str(source).startswith(("http://", "https://", "data:"))


class Hearing(NamedTuple):
    """What an audio encoder hears: clips at its rate in Hz, up to so many samples, or whole."""

    rate: int
    window: int | None = None


def waveforms_of(clip: Clip, hearings: Sequence[Hearing], sampling_rate: int | None = None) -> list[Tensor]:
    """The clip's mono samples, float32 [samples], as each encoder hears them; channels are averaged.

    A file is read and resampled as :func:`~safe_train.audio.waveform.load_waveform` does, an array by the same filter.
    What is behind the longest window is not looked at.

    Args:
        clip: the clip.
        hearings: one for each encoder.
        sampling_rate: of a bare array, in Hz.

    Raises:
        InputError: it cannot be read, its rate is not known, or its samples are not finite.
    """
    if isinstance(clip, (str, Path)):
        if is_url(clip):
            raise InputError(_WHERE, "a file or an array", str(clip)[:60], "fetch it first")
        return [load_waveform(Path(clip), rate, window) for rate, window in hearings]
    mono, source_rate = _decode(clip, sampling_rate, hearings)
    return [
        resample(mono[: _samples_needed(hearing, source_rate)], source_rate, hearing.rate)[: hearing.window]
        for hearing in hearings
    ]


def _samples_needed(hearing: Hearing, source_rate: int) -> int:
    """Samples of a clip of another rate that are heard."""
    return sys.maxsize if hearing.window is None else samples_needed(hearing.window, source_rate, hearing.rate)


def _decode(clip: Any, sampling_rate: int | None, hearings: Sequence[Hearing]) -> tuple[Tensor, int]:
    """Mono samples, as many as are heard, and their rate."""
    if hasattr(clip, "get_all_samples"):
        decoded = clip.get_all_samples()
        clip, sampling_rate = decoded.data, decoded.sample_rate
    elif isinstance(clip, Mapping):
        if clip.get("array") is None:
            raise InputError(_WHERE, "an array and its sampling_rate", ", ".join(map(str, clip)), "give both")
        clip, sampling_rate = clip["array"], clip.get("sampling_rate")
    if sampling_rate is None:
        hint = 'give {"array": ..., "sampling_rate": ...}'
        raise InputError(_WHERE, "a sampling rate beside the array", "none", hint)
    if sampling_rate < LOWEST_RATE:
        raise InputError(_WHERE, HEARABLE_RATE, f"{sampling_rate} Hz", "give the array's own rate")
    samples = torch.as_tensor(np.asarray(clip) if not isinstance(clip, Tensor) else clip)
    if samples.ndim:
        samples = samples[..., : max(_samples_needed(hearing, int(sampling_rate)) for hearing in hearings)]
    if samples.dtype in _FULL_SCALE:
        silence, full_scale = _FULL_SCALE[samples.dtype]
        samples = (samples.double() - silence) / full_scale
    if not samples.is_floating_point() or samples.ndim not in (1, 2) or not samples.numel():
        got = f"{samples.dtype} {list(samples.shape)}"
        raise InputError(_WHERE, "[samples] or [channels, samples]: floats, int16, int32 or uint8", got, "convert")
    if not samples.isfinite().all():
        raise InputError(_WHERE, "finite samples", "NaN or infinite ones", "mend the clip")
    if samples.shape[-1] < SHORTEST_SECONDS * sampling_rate:
        got = f"{samples.shape[-1]} samples at {sampling_rate} Hz"
        raise InputError(_WHERE, HEARABLE_LENGTH, got, "give a longer one, or None")
    return samples.float().reshape(-1, samples.shape[-1]).mean(dim=0), int(sampling_rate)
