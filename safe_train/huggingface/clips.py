"""Clips as users and data sets hand them over: files, and arrays with their sampling rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from safe_train.data.audio_file import HEARABLE_RATE, LOWEST_RATE
from safe_train.data.resampling import resampled
from safe_train.data.waveform import HEARABLE_LENGTH, SHORTEST_SECONDS, load_waveform
from safe_train.errors import InputError

Clip: TypeAlias = "str | Path | np.ndarray | Tensor | Mapping[str, Any] | Any"
"""What can be heard: a file; an array [samples] or [channels, samples] of floats, full scale 1; such an array as
``{"array": ..., "sampling_rate": ...}``; or a decoder with ``get_all_samples()``. `datasets` gives the last two.
"""

_WHERE = "audio"


def is_url(source: str | Path) -> bool:
    """Whether a text is an address and no path."""
    return str(source).startswith(("http://", "https://", "data:"))


def waveforms_of(clip: Clip, rates: Sequence[int], sampling_rate: int | None = None) -> list[Tensor]:
    """The clip's mono samples, float32 [samples], at each rate; channels are averaged.

    A file is read and resampled as :func:`~safe_train.data.waveform.load_waveform` does, an array by the same filter.

    Args:
        clip: the clip.
        rates: in Hz, one for each encoder.
        sampling_rate: of a bare array, in Hz.

    Raises:
        InputError: it cannot be read, its rate is not known, or its samples are no finite floats.
    """
    if isinstance(clip, (str, Path)):
        if is_url(clip):
            raise InputError(_WHERE, "a file or an array", str(clip)[:60], "fetch it first")
        return [load_waveform(Path(clip), rate) for rate in rates]
    mono, source_rate = _decoded(clip, sampling_rate)
    return [resampled(mono, source_rate, rate) for rate in rates]


def _decoded(clip: Any, sampling_rate: int | None) -> tuple[Tensor, int]:
    """Mono samples and their rate."""
    if hasattr(clip, "get_all_samples"):
        decoded = clip.get_all_samples()
        clip, sampling_rate = decoded.data, decoded.sample_rate
    elif isinstance(clip, Mapping):
        if clip.get("array") is None:
            raise InputError(_WHERE, "an array and its sampling_rate", ", ".join(map(str, clip)), "give both")
        clip, sampling_rate = clip["array"], clip.get("sampling_rate")
    if sampling_rate is None:
        way_out = 'give {"array": ..., "sampling_rate": ...}'
        raise InputError(_WHERE, "a sampling rate beside the array", "none", way_out)
    if sampling_rate < LOWEST_RATE:
        raise InputError(_WHERE, HEARABLE_RATE, f"{sampling_rate} Hz", "give the array's own rate")
    samples = torch.as_tensor(np.asarray(clip) if not isinstance(clip, Tensor) else clip)
    if not samples.is_floating_point() or samples.ndim not in (1, 2) or not samples.numel():
        got = f"{samples.dtype} {list(samples.shape)}"
        raise InputError(_WHERE, "floats [samples] or [channels, samples]", got, "scale to full scale 1")
    if not samples.isfinite().all():
        raise InputError(_WHERE, "finite samples", "NaN or infinite ones", "mend the clip")
    if samples.shape[-1] < SHORTEST_SECONDS * sampling_rate:
        got = f"{samples.shape[-1]} samples at {sampling_rate} Hz"
        raise InputError(_WHERE, HEARABLE_LENGTH, got, "give a longer one, or None")
    return samples.float().reshape(-1, samples.shape[-1]).mean(dim=0), int(sampling_rate)
