"""Mono waveforms at another sampling rate, by one windowed-sinc filter whatever the two rates are."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchaudio import functional

# torchaudio's filter: zero crossings on each side, and the share of the lower Nyquist frequency that passes.
_WIDTH = 6
_ROLLOFF = 0.99

# torchaudio keeps a kernel for each of to/gcd phases, and each is as long as from/gcd: 44,099 to 16,000 Hz, which have
# no common factor, would take gigabytes. Elements up to which that pays, and elements that are computed at once beyond.
_MAX_KERNEL = 2**20
_CHUNK = 2**21


def resample(waveform: Tensor, source_rate: int, rate: int) -> Tensor:
    """The waveform at another rate, by a sinc filter with a Hann window, ``ceil(samples * rate / source_rate)`` long.

    Output ``n`` is ``sum_k x[k] h(k - n * source_rate / rate)`` with ``h(d) = b sinc(b d) cos(pi b d / 12)^2`` for
    ``|b d| < 6`` and ``b = 0.99 min(1, rate / source_rate)``, the filter of ``torchaudio.functional.resample``, which
    computes it where the rates have a large common factor. Memory does not depend on the factor.

    Args:
        waveform: float32 [samples].
        source_rate: its rate in Hz, at least 1.
        rate: the wanted rate in Hz, at least 1.
    """
    if source_rate == rate:
        return waveform
    divisor = math.gcd(source_rate, rate)
    source_step, step = source_rate // divisor, rate // divisor
    if source_step * step <= _MAX_KERNEL:
        return functional.resample(waveform, source_rate, rate, lowpass_filter_width=_WIDTH, rolloff=_ROLLOFF)
    return _interpolate(waveform, source_step, step)


def samples_needed(length: int, source_rate: int, rate: int) -> int:
    """Samples at the source rate that the first ``length`` samples at the other rate depend on."""
    if source_rate == rate or not length:
        return length
    return (length - 1) * source_rate // rate + 1 + _reach(source_rate, rate)


def _reach(source_rate: int, rate: int) -> int:
    """Source samples on each side of a moment that the filter hears."""
    return math.ceil(_WIDTH * source_rate / (_ROLLOFF * min(source_rate, rate)))


def _interpolate(waveform: Tensor, source_rate: int, rate: int) -> Tensor:
    reach, bandwidth = _reach(source_rate, rate), _ROLLOFF * min(1.0, rate / source_rate)
    taps = torch.arange(-reach, reach + 1)
    around = torch.nn.functional.pad(waveform, (reach, reach)).unfold(0, len(taps), 1)
    length = math.ceil(len(waveform) * rate / source_rate)
    parts = []
    for numbers in torch.arange(length).split(max(1, _CHUNK // len(taps))):
        moments = numbers * source_rate  # in units of 1 / rate source samples, exactly
        crossings = (bandwidth * (taps - (moments % rate / rate).double()[:, None])).clamp(-_WIDTH, _WIDTH)
        kernels = bandwidth * torch.sinc(crossings) * torch.cos(crossings * math.pi / (2 * _WIDTH)).square()
        parts.append((kernels * around[moments // rate]).sum(dim=1).to(waveform.dtype))
    return torch.cat(parts)
