"""Audio files as mono waveforms of one sampling rate, and waveforms of one length."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch
from torch import Tensor
from torchaudio.functional import resample

from safe_train.data.manifest import AUDIO_SUFFIXES
from safe_train.errors import InputError

_BLOCK_FRAMES = 2**20

# Writers that cannot seek back leave a placeholder for the size: 0xFFFFFFFF (FFmpeg) or just under 2^31 (SoX).
_PLACEHOLDER_BYTES = 0x7FFF0000
_WAV_DATA_SIZE = re.compile(r"^data : (\d+) \(should be (\d+)\)$", re.MULTILINE)

# Bytes of an OGG page: its fixed header, and the most with 255 segments of 255 bytes (RFC 3533, section 6).
_OGG_HEADER = 27
_MAX_OGG_PAGE = _OGG_HEADER + 255 + 255 * 255

# Elements of the resampling kernel, from/gcd * to/gcd. A rate such as 44,101 Hz has no common factor with 16,000 Hz,
# and its kernel takes gigabytes.
_MAX_KERNEL = 2**26


class FittedWaveform(NamedTuple):
    """A waveform of a wanted length, float32 [length], and how many of its first samples are the clip's own."""

    waveform: Tensor
    valid_length: int


def load_waveform(path: Path, sample_rate: int) -> Tensor:
    """Reads a WAV, FLAC, OGG or MP3 file; its content decides which, not its name.

    Channels are averaged. Another rate is resampled with torchaudio's windowed-sinc filter (Hann window, width 6).

    Args:
        path: the file.
        sample_rate: the wanted rate in Hz.

    Returns:
        float32 [samples], full scale is 1; at least one sample.

    Raises:
        InputError: the file is missing, unreadable, truncated or without samples, has samples that are not finite, or
            has a rate that is below 1 Hz or shares too small a factor with the wanted one.
    """
    samples, source_rate = _decode(path)
    if not samples.numel():
        raise InputError(path, "audio", "a file without samples", "replace or remove the file")
    if not samples.isfinite().all():
        got = f"{int((~samples.isfinite()).sum())} that are NaN or infinite"
        raise InputError(path, "finite samples", got, "write the file again")
    mono = samples.mean(dim=1)
    if source_rate == sample_rate:
        return mono
    divisor = math.gcd(source_rate, sample_rate)
    if (source_rate // divisor) * (sample_rate // divisor) > _MAX_KERNEL:
        expected = f"a rate with a larger common factor with {sample_rate} Hz"
        raise InputError(path, expected, f"{source_rate} Hz", "resample the file to a common rate, such as 48,000 Hz")
    return resample(mono, source_rate, sample_rate)


def fit_waveform(waveform: Tensor, length: int) -> FittedWaveform:
    """Makes a waveform of exactly ``length`` samples.

    A longer clip keeps its first ``length`` samples. A shorter one is repeated as often as it fits whole, and zeros
    follow, as CLAP was trained (``repeatpad`` of ``transformers.ClapFeatureExtractor``).

    Args:
        waveform: [samples], at least one sample.
        length: the wanted number of samples, at least 1.

    Returns:
        The waveform, [length], same dtype and device, and its valid length ``min(samples, length)``.

    Raises:
        ValueError: the waveform is not one-dimensional or has no samples, or ``length`` is below 1.
    """
    if waveform.ndim != 1 or not waveform.numel():
        raise ValueError(f"waveform must have shape [samples] with at least one sample, got {list(waveform.shape)}")
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    num_samples = waveform.numel()
    if num_samples >= length:
        return FittedWaveform(waveform[:length], length)
    repeated = waveform.repeat(length // num_samples)
    return FittedWaveform(torch.nn.functional.pad(repeated, (0, length - repeated.numel())), num_samples)


def _decode(path: Path) -> tuple[Tensor, int]:
    """The samples, float32 [samples, channels], and the rate in Hz."""
    if not path.is_file():
        raise InputError(path, "an audio file", "no such file", "check the path or remove its entry")
    if path.suffix.lower() not in AUDIO_SUFFIXES:
        way_out = "convert the file or mend its name"
        raise InputError(path, f"a name that ends in {' '.join(AUDIO_SUFFIXES)}", repr(path.suffix), way_out)
    try:
        with soundfile.SoundFile(path) as file:
            samples = _read_to_the_end(file)
            missing = _missing_end(path, file, len(samples))
            rate = file.samplerate
    except (soundfile.SoundFileError, OSError) as error:
        reason = str(error).replace(str(path), path.name)
        raise InputError(path, "readable WAV, FLAC, OGG or MP3", reason, "replace or remove the file") from error
    if missing:
        raise InputError(path, "a whole file", missing, "fetch the file again or remove it")
    return torch.from_numpy(samples), rate


def _read_to_the_end(file: soundfile.SoundFile) -> np.ndarray:
    """All samples, float32 [samples, channels], however many the header promises: a broken one promises terabytes."""
    blocks: list[np.ndarray] = [np.empty((0, file.channels), dtype=np.float32)]
    while len(block := file.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)):
        blocks.append(block)
    return np.concatenate(blocks)


def _missing_end(path: Path, file: soundfile.SoundFile, num_frames: int) -> str | None:
    """What tells that the file ends early, or None. libsndfile decodes such WAV, OGG and MP3 files without an error."""
    if num_frames != file.frames:
        return f"{num_frames} of {file.frames} samples for each channel"
    sizes = _WAV_DATA_SIZE.search(file.extra_info)
    if sizes and int(sizes[1]) < _PLACEHOLDER_BYTES:
        return f"{sizes[2]} of {sizes[1]} bytes of audio"
    if file.format == "OGG" and not _ends_with_last_page(path):
        return "OGG pages without the last one"
    return None


def _ends_with_last_page(path: Path) -> bool:
    """Whether the last OGG page is complete and flagged as the end of its stream (RFC 3533, section 6)."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2 * _MAX_OGG_PAGE))
        tail = file.read()
    _, magic, rest = tail.rpartition(b"OggS")
    page = magic + rest
    if not magic or len(page) < _OGG_HEADER:
        return False
    is_end_of_stream = bool(page[5] & 0x04)
    lacing = page[_OGG_HEADER : _OGG_HEADER + page[_OGG_HEADER - 1]]
    return is_end_of_stream and len(page) >= _OGG_HEADER + page[_OGG_HEADER - 1] + sum(lacing)
