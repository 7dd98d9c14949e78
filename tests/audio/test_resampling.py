"""Resampling against torchaudio in double precision and against the filter's formula, whatever factor rates share."""

import math

import pytest
import torch
from torchaudio import functional

from safe_train.audio.resampling import _interpolate, resample, samples_needed

# torchaudio computes float32 kernels from float32 moments, of which a thousand phases leave 1e-4; in float64 it is
# exact, and float32 results differ by their own rounding.
FLOAT32_ROUNDING = 2e-6


def noise(length):
    return torch.randn(length, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("source_rate", "rate"), [(44_100, 16_000), (11_025, 16_000), (8_000, 48_000), (96_000, 16_000), (40, 16_000)]
)
def test_both_ways_are_one_filter(source_rate, rate):
    clip = noise(source_rate // 4 + 17)
    expected = functional.resample(clip.double(), source_rate, rate)
    divisor = math.gcd(source_rate, rate)
    found = _interpolate(clip, source_rate // divisor, rate // divisor)
    assert found.dtype == torch.float32
    assert found.shape == expected.shape == resample(clip, source_rate, rate).shape
    assert (found - expected).abs().max() < FLOAT32_ROUNDING


def by_formula(clip, source_rate, rate, number):
    bandwidth = 0.99 * min(1.0, rate / source_rate)
    total = 0.0
    for k, sample in enumerate(clip.tolist()):
        d = bandwidth * (k - number * source_rate / rate)
        if abs(d) < 6:
            sinc = math.sin(math.pi * d) / (math.pi * d) if d else 1.0
            total += sample * bandwidth * sinc * math.cos(math.pi * d / 12) ** 2
    return total


@pytest.mark.parametrize("source_rate", [44_099, 22_254, 11_127, 15_999])
def test_rates_without_a_common_factor(source_rate):
    clip = noise(500)
    found = resample(clip, source_rate, 16_000)
    assert len(found) == math.ceil(500 * 16_000 / source_rate)
    for number in (0, 1, 50, len(found) - 1):
        assert found[number] == pytest.approx(by_formula(clip, source_rate, 16_000, number), abs=FLOAT32_ROUNDING)


def test_a_tone_at_an_odd_rate_stays_the_tone():
    source_rate, rate = 44_099, 16_000
    tone = torch.sin(2 * math.pi * 440 * torch.arange(source_rate) / source_rate)
    expected = torch.sin(2 * math.pi * 440 * torch.arange(rate) / rate)
    assert (resample(tone, source_rate, rate) - expected)[200:-200].abs().max() < 5e-3


@pytest.mark.parametrize("source_rate", [44_099, 44_100, 8_000, 16_000, 40])
def test_no_sample_that_is_needed_is_left_out_and_none_that_is_not_is_asked_for(source_rate):
    clip = noise(4_000)
    needed = samples_needed(700, source_rate, 16_000)
    whole = resample(clip, source_rate, 16_000)[:700]
    assert (resample(clip[:needed], source_rate, 16_000)[:700] - whole).abs().max() < FLOAT32_ROUNDING
    if source_rate in (44_099, 8_000):  # negative control: two less are heard
        assert (resample(clip[: needed - 3], source_rate, 16_000)[:700] - whole).abs().max() > 10 * FLOAT32_ROUNDING


def test_no_large_kernel_is_made(monkeypatch):
    """torchaudio's kernel for 44,099 Hz has 16,000 phases of 44,135 samples: 2.8 GB in float32."""

    def fails(*_arguments, **_options):
        raise AssertionError("torchaudio was asked")

    monkeypatch.setattr(functional, "resample", fails)
    assert resample(noise(44_099), 44_099, 16_000).shape == (16_000,)
    with pytest.raises(AssertionError):  # negative control
        resample(noise(44_100), 44_100, 16_000)
