"""Audio files of every kind, and what training and the check make of them."""

import io
import struct

import numpy as np
import pytest
import soundfile

from safe_train.audio.formats import CONTAINERS
from safe_train.audio.waveform import load_waveform
from safe_train.data.validation.check import check_audio
from safe_train.errors import InputError

NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000).astype(np.float32)


def heard(path, rate):
    """What training hears of the file in full, or None if it refuses it; the check and a window agree."""
    try:
        waveform = load_waveform(path, rate)
    except InputError as error:
        waveform = None
        line = str(error)
        assert line.startswith(f"{path}: expected ")
        assert "\n" not in line
        with pytest.raises(InputError):
            load_waveform(path, 16_000, 1_600)
    else:
        window = load_waveform(path, 16_000, 1_600)
        assert len(window) == min(1_600, -(-len(waveform) * 16_000 // rate))
    seconds, defect = check_audio(path)
    assert (defect is None) == (waveform is not None), defect
    if waveform is not None:
        assert seconds == len(waveform) / rate
    return None if waveform is None else waveform.numpy()


def suffix_of(container):
    return next((suffix for suffix, held in CONTAINERS.items() if container in held), ".wav")


class Unsought(soundfile.SoundFile):
    """soundfile looks for its place in the file even before it reads; a few codecs cannot tell it."""

    def seekable(self):
        return False


def as_soundfile_reads_it(path):
    """All samples by one call, and the rate."""
    with Unsought(path) as file:
        samples = file.read(file.frames, dtype="float32", always_2d=True)
        return samples.mean(axis=1), file.samplerate


def write(path, container, subtype, rate, channels):
    """A tone of a quarter second, softer in each channel; False where libsndfile cannot write it."""
    count = rate // 4 + 13
    tone = 0.4 * np.sin(2 * np.pi * 440 * np.arange(count) / rate)
    try:
        soundfile.write(path, tone[:, None] * np.linspace(1, 0.5, channels), rate, format=container, subtype=subtype)
    except (soundfile.LibsndfileError, AssertionError):  # soundfile asserts that all was written
        return False
    return True


ID3 = b"ID3\x04\0\0\0\0\x01\x00" + bytes(128)


def encoded(container, subtype=None, samples=NOISE, **options):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16_000, format=container, subtype=subtype, **options)
    return buffer.getvalue()


def sized(content, magic, size, form):
    place = content.index(magic) + 4
    return content[:place] + struct.pack(form, size) + content[place + struct.calcsize(form) :]


CHUNK = b"LIST" + struct.pack("<I", 16) + b"INFOISFT" + struct.pack("<I", 4) + b"some"
AIFF, AU = encoded("AIFF", "PCM_16"), encoded("AU", "PCM_16", endian="BIG")
FLAC, OPUS, VORBIS = encoded("FLAC"), encoded("OGG", "OPUS"), encoded("OGG", "VORBIS")
WAV = encoded("WAV", "PCM_16")


def of_unknown_length(flac):
    """STREAMINFO's count of samples is 0 where an encoder wrote to a pipe (RFC 9639, section 8.2)."""
    return flac[:21] + bytes([flac[21] & 0xF0]) + bytes(4) + flac[26:]


def without_end(ogg):
    """The last page's flag taken away, and its checksum made anew (RFC 3533, section 6)."""
    place = ogg.rindex(b"OggS")
    page = bytearray(ogg[place:])
    page[5] &= ~4
    page[22:26] = bytes(4)
    checksum = 0
    for byte in page:
        checksum ^= byte << 24
        for _ in range(8):
            checksum = checksum << 1 & 0xFFFFFFFF ^ (0x04C11DB7 if checksum & 0x80000000 else 0)
    page[22:26] = struct.pack("<I", checksum)
    return ogg[:place] + bytes(page)
