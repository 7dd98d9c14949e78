"""Procedural sounds, measured: how many events, at which fundamental frequency."""

import numpy as np
import pytest
from scipy.signal import hilbert

from safe_train.embedded.sounds import ALL_SOUNDS, CLIP_SECONDS, SAMPLE_RATE, Sound, synthesize

HZ = {"low": 260.0, "high": 1040.0}
FRAME = SAMPLE_RATE // 100


def events(clip):
    """Start and end samples of the stretches that are louder than 4 % of the peak, 30 ms apart at least."""
    frames = np.abs(clip[: len(clip) // FRAME * FRAME]).reshape(-1, FRAME).max(axis=1)
    loud = np.flatnonzero(frames > 0.04 * frames.max())
    runs = np.split(loud, np.flatnonzero(np.diff(loud) > 3) + 1)
    return [(run[0] * FRAME, (run[-1] + 1) * FRAME) for run in runs]


def spectral_peak(samples, low=60.0, high=2_000.0):
    """Frequency in Hz of the strongest component, with zero padding to a resolution of 1 Hz."""
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), n=SAMPLE_RATE))
    return low + int(np.argmax(power[int(low) : int(high)]))


def fundamental(kind, samples):
    """Frequency in Hz at which the event begins."""
    if kind == "chirp":  # its phase is quadratic in time; the slope where it starts
        phase = np.unwrap(np.angle(hilbert(samples)))
        inner = np.arange(2 * FRAME, len(samples) - 4 * FRAME)  # without the fades, where noise has a say
        return float(np.polyfit(inner, phase[inner], 2)[1]) * SAMPLE_RATE / (2 * np.pi)
    if kind == "drum":  # a thump an octave below, over after 60 ms
        return 2 * spectral_peak(samples[: 6 * FRAME], low=60, high=900)
    return spectral_peak(samples)


@pytest.mark.parametrize("sound", ALL_SOUNDS, ids=lambda sound: sound.caption)
def test_a_clip_holds_the_events_that_its_caption_says(sound, rng):
    for _ in range(5):
        clip = synthesize(sound, rng)
        assert (clip.dtype, clip.shape) == (np.float32, (int(SAMPLE_RATE * CLIP_SECONDS),))
        assert np.abs(clip).max() <= 1.0
        assert len(events(clip)) == sound.count


@pytest.mark.parametrize("sound", ALL_SOUNDS, ids=lambda sound: sound.caption)
def test_every_event_has_the_fundamental_of_its_pitch(sound, rng):
    """Detuning is at most 8 %; what is left of the 20 % is the error of the measurement on short and noisy events."""
    for _ in range(3):
        clip = synthesize(sound, rng)
        for start, end in events(clip):
            assert fundamental(sound.kind, clip[start:end]) == pytest.approx(HZ[sound.pitch], rel=0.2)


def test_the_measurements_tell_a_wrong_count_and_a_wrong_pitch(rng):
    """Negative control: one event cut out, and the clip played at double speed."""
    clip = synthesize(Sound("whistle", "low", 3), rng)
    start, end = events(clip)[1]
    muted = clip.copy()
    muted[start:end] = 0
    assert len(events(muted)) == 2
    fast = clip[::2]
    assert fundamental("whistle", fast[start // 2 : end // 2]) != pytest.approx(HZ["low"], rel=0.2)


def test_captions_name_count_pitch_and_kind():
    assert Sound("bell", "low", 2).caption == "two low bell sounds"
    assert Sound("drum", "high", 1).caption == "one high drum sound"
    assert len({sound.caption for sound in ALL_SOUNDS}) == len(ALL_SOUNDS) == 5 * 2 * 3
