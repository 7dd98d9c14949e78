"""Readout audio files: rates, channels, depths, formats and damage; and fitting a waveform to a length."""

import struct
import tracemalloc

import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import resample_poly

from safe_train.audio.waveform import load_waveform, measure
from safe_train.errors import InputError

RATE = 16_000
FORMATS = [
    ("wav", "PCM_U8", 2**-7),
    ("wav", "PCM_16", 2**-15),
    ("wav", "PCM_24", 2**-23),
    ("wav", "PCM_32", 2**-23),
    ("wav", "FLOAT", 0.0),
    ("wav", "DOUBLE", 2**-24),
    ("flac", "PCM_16", 2**-15),
    ("flac", "PCM_24", 2**-23),
]


def tone(seconds=0.5, rate=RATE, frequency=440.0, amplitude=0.5):
    return (amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def error_of(path):
    with pytest.raises(InputError) as caught:
        load_waveform(path, RATE)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: expected ")
    return str(caught.value)


@pytest.mark.parametrize(("suffix", "subtype", "step"), FORMATS)
def test_lossless_formats_keep_the_samples_to_their_step(tmp_path, suffix, subtype, step):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, tone(), RATE, subtype=subtype)
    waveform = load_waveform(path, RATE)
    assert waveform.dtype == torch.float32
    assert waveform.shape == (8000,)
    assert np.abs(waveform.numpy() - tone()).max() <= step


@pytest.mark.parametrize("suffix", ["ogg", "mp3"])
def test_lossy_formats_keep_the_tone(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, tone(), RATE)
    waveform = load_waveform(path, RATE).numpy()
    assert waveform.shape == (8000,)
    assert np.corrcoef(waveform, tone())[0, 1] > 0.99


def test_channels_are_averaged(tmp_path):
    path = tmp_path / "a.wav"
    left, right = tone(frequency=440), tone(frequency=1000)
    soundfile.write(path, np.stack([left, right], axis=1), RATE, subtype="FLOAT")
    torch.testing.assert_close(load_waveform(path, RATE).numpy(), (left + right) / 2)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_other_rates_are_resampled_to_the_same_tone(tmp_path, rate):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(rate=rate), rate, subtype="FLOAT")
    waveform = load_waveform(path, RATE).numpy()
    assert waveform.shape == (8000,)
    # The same tone sampled at the wanted rate, away from the edges, where every filter rings.
    assert np.abs(waveform - tone())[200:-200].max() < 5e-3


def test_resampling_agrees_with_scipy_and_removes_what_cannot_be_represented(tmp_path):
    path = tmp_path / "a.wav"
    rate = 48_000
    mixed = tone(rate=rate) + tone(rate=rate, frequency=12_000)
    soundfile.write(path, mixed, rate, subtype="FLOAT")
    waveform = load_waveform(path, RATE).numpy()
    assert np.abs(waveform - resample_poly(mixed, 1, 3))[200:-200].max() < 5e-3
    # Negative control: taking every third sample folds 12 kHz down to 4 kHz, at full amplitude.
    assert np.abs(mixed[::3] - tone())[200:-200].max() > 0.4


def test_the_content_and_not_the_name_decides_the_format(tmp_path):
    path = tmp_path / "flac_inside.wav"
    soundfile.write(path, tone(), RATE, format="FLAC")
    assert load_waveform(path, RATE).shape == (8000,)


def test_names_in_any_script(tmp_path):
    path = tmp_path / "собака 犬.wav"
    soundfile.write(path, tone(), RATE)
    assert load_waveform(path, RATE).shape == (8000,)


def test_a_missing_file(tmp_path):
    assert "expected an audio file, got no such file" in error_of(tmp_path / "a.wav")


@pytest.mark.parametrize("name", ["a.raw", "a.txt", "a"])
def test_a_name_of_no_audio_file(tmp_path, name):
    (tmp_path / name).write_bytes(b"\0" * 100)
    assert "a name that ends in .wav .flac .ogg .mp3" in error_of(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"hello", b"RIFF", b"\0" * 4096], ids=["empty", "text", "stub", "zeros"])
def test_files_that_are_no_audio(tmp_path, content):
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    assert "expected readable audio such as WAV, FLAC, OGG or MP3" in error_of(path)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("lost", [0.5, 0.1, 0.001])
def test_truncated_files(tmp_path, suffix, lost):
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 4 * RATE).astype(np.float32)
    soundfile.write(path, noise, RATE)
    load_waveform(path, RATE)
    content = path.read_bytes()
    path.write_bytes(content[: round((1 - lost) * len(content))])
    error_of(path)


def test_a_truncated_opus_file(tmp_path):
    path = tmp_path / "a.ogg"
    soundfile.write(path, tone(seconds=4), RATE, format="OGG", subtype="OPUS")
    load_waveform(path, RATE)
    path.write_bytes(path.read_bytes()[:-100])
    error_of(path)


def test_a_flac_header_that_promises_hours_takes_no_memory_for_them(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, tone(), RATE)
    content = bytearray(path.read_bytes())
    # STREAMINFO follows "fLaC" and a 4-byte block header; its bytes 13 (low half) to 17 count the samples (RFC 9639).
    assert int.from_bytes(content[8 + 13 : 8 + 18]) & (2**36 - 1) == 8000
    content[8 + 13] |= 0x0F
    path.write_bytes(content)
    error_of(path)


def test_a_clip_longer_than_one_block_is_read_whole(tmp_path):
    path = tmp_path / "a.wav"
    samples = np.random.default_rng(0).integers(0, 255, 2**20 + 7, dtype=np.int16)
    soundfile.write(path, samples, RATE, subtype="PCM_16")
    np.testing.assert_array_equal(load_waveform(path, RATE).numpy() * 2**15, samples)


def test_a_streamed_wav_that_does_not_know_its_size_is_read(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(), RATE)
    content = bytearray(path.read_bytes())
    assert content[36:40] == b"data"
    for size in (0xFFFFFFFF, 0x7FFFF000):
        content[40:44] = struct.pack("<I", size)
        path.write_bytes(content)
        assert load_waveform(path, RATE).shape == (8000,)


def test_a_header_of_zero_hertz(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(), RATE)
    content = bytearray(path.read_bytes())
    assert struct.unpack("<I", content[24:28]) == (RATE,)
    content[24:28] = struct.pack("<I", 0)
    path.write_bytes(content)
    assert "expected readable audio" in error_of(path)


def test_no_samples(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone()[:0], RATE)
    assert "expected audio, got WAV of 44 bytes that says it has no samples" in error_of(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite(tmp_path, value):
    path = tmp_path / "a.wav"
    samples = tone()
    samples[[3, 70]] = value
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    assert "expected finite samples, got 2 that are NaN or infinite" in error_of(path)


def test_channels_that_are_infinite_in_opposite_ways(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.tile(np.float32([np.inf, -np.inf]), (800, 1)), RATE, subtype="FLOAT")
    assert "expected finite samples, got 800 that are NaN or infinite" in error_of(path)


def test_a_clip_too_short_for_one_window_of_analysis(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone()[:399], RATE)
    assert "expected a clip of at least 0.025 s, got 399 samples at 16000 Hz" in error_of(path)
    soundfile.write(path, tone()[:400], RATE)
    assert load_waveform(path, RATE).shape == (400,)


@pytest.mark.parametrize(("rate", "is_heard"), [(1, False), (39, False), (40, True)])
def test_a_rate_that_holds_no_pitch(tmp_path, rate, is_heard):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(), rate)
    if is_heard:
        assert load_waveform(path, RATE).shape == (8_000 * RATE // rate,)
    else:
        assert f"expected a rate of at least 40 Hz, got {rate} Hz" in error_of(path)


@pytest.mark.parametrize("rate", [RATE, 44_100, 44_099, 8_000])
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_a_window_is_the_beginning_of_the_whole(tmp_path, suffix, rate):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 3 * rate).astype(np.float32), rate)
    whole = load_waveform(path, RATE)
    for length in (1, 777, RATE, 3 * RATE, 4 * RATE):
        window = load_waveform(path, RATE, length)
        assert window.shape == whole[:length].shape
        np.testing.assert_allclose(window.numpy(), whole[:length].numpy(), atol=1e-6)


def test_of_a_long_clip_the_window_alone_is_in_memory(tmp_path):
    """Ten minutes of silence in stereo: 230 MB of samples in a file of kilobytes."""
    path = tmp_path / "a.flac"
    with soundfile.SoundFile(path, "w", 48_000, 2) as file:
        for _ in range(10):
            file.write(np.zeros((60 * 48_000, 2), np.int16))
    assert path.stat().st_size < 400_000
    tracemalloc.start()
    assert load_waveform(path, RATE, 2 * RATE).shape == (2 * RATE,)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.reset_peak()
    assert measure(path).seconds == 600.0
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_a_flac_file_that_is_cut_behind_the_window_is_refused(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 4 * RATE), RATE)
    assert load_waveform(path, RATE, RATE).shape == (RATE,)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    with pytest.raises(InputError):
        load_waveform(path, RATE, RATE)
