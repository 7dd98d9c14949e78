"""Loud clips, white noise and silence against their definitions in decibels."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from safe_train.audio.input import SYNTHETIC_SECONDS, Amplified, WhiteNoise, describe, render_waveform

RATE = 16_000


@pytest.fixture
def quiet_clip(tmp_path):
    path = tmp_path / "quiet.wav"
    time = np.arange(RATE) / RATE
    soundfile.write(path, 0.03 * np.sin(2 * np.pi * 440 * time), RATE, subtype="FLOAT")
    return path


def decibels(waveform):
    return 20 * torch.log10(waveform.double().square().mean().sqrt()).item()


@pytest.mark.parametrize("gain_db", [-20.0, -10.0, 10.0, 20.0])
def test_a_gain_moves_the_level_by_so_many_decibels(quiet_clip, gain_db):
    plain, changed = (render_waveform(audio, RATE) for audio in (quiet_clip, Amplified(quiet_clip, gain_db)))
    assert decibels(changed) - decibels(plain) == pytest.approx(gain_db, abs=1e-4)


def test_a_gain_cuts_at_full_scale(quiet_clip):
    changed = render_waveform(Amplified(quiet_clip, 40.0), RATE)
    assert changed.abs().max() == 1.0
    assert decibels(changed) < decibels(render_waveform(quiet_clip, RATE)) + 40.0


def test_noise_has_its_level_no_mean_and_no_correlation():
    noise = render_waveform(WhiteNoise(-20.0, seed=1), RATE).double()
    count = len(noise)
    assert decibels(noise) == pytest.approx(-20.0, abs=0.2)  # the level of 32,000 samples is known to 0.03 dB
    limit = 4 * 0.1 / count**0.5
    assert abs(noise.mean()) < limit
    assert abs((noise[1:] * noise[:-1]).mean()) < 4 * 0.01 / count**0.5


def test_the_correlation_check_finds_a_tone():
    """Negative control."""
    tone = 0.1 * torch.sin(torch.arange(2 * RATE) * 0.05)
    assert abs((tone[1:] * tone[:-1]).mean()) > 4 * 0.01 / len(tone) ** 0.5


def test_noise_is_its_seeds():
    assert torch.equal(render_waveform(WhiteNoise(-20.0, 3), RATE), render_waveform(WhiteNoise(-20.0, 3), RATE))
    assert not torch.equal(render_waveform(WhiteNoise(-20.0, 3), RATE), render_waveform(WhiteNoise(-20.0, 4), RATE))


@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_silence_is_zeros(rate):
    assert torch.equal(render_waveform(None, rate), torch.zeros(int(SYNTHETIC_SECONDS * rate)))


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        (None, "silence"),
        (Path("a/b.wav"), "a/b.wav"),
        (Amplified(Path("a/b.wav"), 20.0), "a/b.wav +20 dB"),
        (WhiteNoise(-20.0, 3), "white noise -20 dB, seed 3"),
    ],
)
def test_descriptions(audio, words):
    assert describe(audio) == words
