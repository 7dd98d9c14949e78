"""MPEG audio is heard to its end, whatever its first frame states."""

import io
import struct

import numpy as np
import pytest
import soundfile

from safe_train.data.validation.check import check_audio
from tests.audio.corpus import (
    ID3,
    heard,
)


def mp3(rate=44_100, channels=1, mode="CONSTANT", seconds=2.0):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (int(seconds * rate), channels))
    swell = np.linspace(0.001, 1, len(noise))[:, None]  # frames of many lengths
    options = {"bitrate_mode": mode, "compression_level": 0.4}
    soundfile.write(buffer, noise * swell, rate, format="MP3", subtype="MPEG_LAYER_III", **options)
    return buffer.getvalue()


def frame_lengths(content):
    """By ISO/IEC 11172-3 and 13818-3 for layer III, the table of bit rates typed in here again."""
    table = {3: [32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320]}
    table[2] = table[0] = [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160]
    lengths, start = [], 0
    while start + 4 <= len(content):
        _, kind, byte, _ = content[start : start + 4]
        version, index, rate, padding = kind >> 3 & 3, byte >> 4, byte >> 2 & 3, byte >> 1 & 1
        hertz = [44_100, 48_000, 32_000][rate] // {3: 1, 2: 2, 0: 4}[version]
        lengths.append((144 if version == 3 else 72) * table[version][index - 1] * 1_000 // hertz + padding)
        start += lengths[-1]
    assert start == len(content)
    return lengths


def bare(content):
    """Without the first frame, which states the length."""
    return content[frame_lengths(content)[0] :]


MODES = ("CONSTANT", "VARIABLE", "AVERAGE")


@pytest.mark.parametrize("rate", [8_000, 12_000, 16_000, 22_050, 32_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("mode", MODES)
def test_mp3_without_a_stated_length_is_heard_to_its_end(tmp_path, rate, channels, mode):
    """Its samples are those of the file that states it, behind what the encoder put in front."""
    path = tmp_path / "a.mp3"
    content = mp3(rate, channels, mode)
    path.write_bytes(content)
    stated = heard(path, rate)
    assert len(stated) == 2 * rate
    path.write_bytes(bare(content))
    found = heard(path, rate)
    assert len(found) == (len(frame_lengths(content)) - 1) * (1_152 if rate >= 32_000 else 576)
    start = next(start for start in range(3_000) if np.abs(found[start:][:1_000] - stated[:1_000]).max() < 1e-6)
    np.testing.assert_allclose(found[start:][: len(stated)], stated, atol=1e-5)


def test_negative_control_libsndfile_alone_hears_a_part():
    content = bare(mp3(mode="VARIABLE"))
    with soundfile.SoundFile(io.BytesIO(content)) as file:
        assert abs(len(file.read()) - 2 * 44_100) > 10_000


FRAMES_IN_A_TAG = b"ID3\x04\0\0\0\0\x06\0" + 2 * (bytes.fromhex("fffd8400") + bytes(380))  # 768 bytes, in sevens
# ID3v2.4, 3.1 and 3.4: a flag tells that there is one, and its 10 bytes do not count in the length.
WITH_FOOTER = b"ID3\x04\0\x10\0\0\x01\x00" + bytes(128) + b"3DI\x04\0\x10\0\0\x01\x00"
TAIL = b"TAG" + bytes(125)
JUNK = b"\xff\xfbjunk\xff" * 40

MPEG_CASES = {
    "tags": lambda content: ID3 + ID3 + bare(content) + TAIL,
    "tag that holds frames": lambda content: FRAMES_IN_A_TAG + bare(content),
    "second tag that holds frames": lambda content: ID3 + FRAMES_IN_A_TAG + bare(content),
    "tag behind a tag with a footer": lambda content: WITH_FOOTER + FRAMES_IN_A_TAG + bare(content),
    "tags and a stated length": lambda content: ID3 + content + TAIL,
    "junk in front": lambda content: JUNK + bare(content),
    "junk between": lambda content: (
        bare(content)[: sum(frame_lengths(bare(content))[:9])]
        + JUNK
        + bare(content)[sum(frame_lengths(bare(content))[:9]) :]
    ),
    "cut within the first frame": lambda content: content[frame_lengths(content)[0] // 2 :],
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("change", MPEG_CASES.values(), ids=MPEG_CASES)
def test_mp3_as_it_is_found(tmp_path, change, mode):
    path = tmp_path / "a.mp3"
    content = mp3(mode=mode)
    path.write_bytes(change(content))
    found = heard(path, 44_100)
    expected = (
        2 * 44_100 if change is MPEG_CASES["tags and a stated length"] else 1_152 * (len(frame_lengths(content)) - 1)
    )
    assert len(found) == expected


@pytest.mark.parametrize("mode", MODES)
def test_mp3_files_that_were_joined_are_heard_one_after_the_other(tmp_path, mode):
    path = tmp_path / "a.mp3"
    content = mp3(mode=mode)
    path.write_bytes(content + content)
    assert len(heard(path, 44_100)) == 1_152 * (2 * len(frame_lengths(content)) - 1)


@pytest.mark.parametrize("mode", MODES)
def test_mp3_that_ends_early(tmp_path, mode):
    """A stated length tells; without one, all whole frames are heard."""
    path = tmp_path / "a.mp3"
    content = mp3(mode=mode)
    lengths = frame_lengths(content)
    for cut in (1, lengths[-1], lengths[-1] + 1, len(content) // 2):
        path.write_bytes(content[:-cut])
        if cut != lengths[-1]:  # one frame less is what programs state that count the first one
            assert heard(path, 44_100) is None
            assert check_audio(path)[1].kind.name == "TRUNCATED_AUDIO"
        path.write_bytes(bare(content)[:-cut])
        kept = np.cumsum(lengths[1:]) <= len(content) - lengths[0] - cut
        assert len(heard(path, 44_100)) == 1_152 * kept.sum()


def with_vbri(content):
    """As Fraunhofer's encoder states it: 32 bytes behind the header, the number of frames as the sixth field."""
    first, sound = content[: frame_lengths(content)[0]], bare(content)
    stated = struct.pack(">4sHHHII", b"VBRI", 1, 0, 75, len(sound), len(frame_lengths(sound)))
    return (first[:4] + bytes(32) + stated).ljust(len(first), b"\0") + sound


def with_checksum(content):
    """The first frame with the bit that says that two bytes of checksum follow the header."""
    first = content[: frame_lengths(content)[0]]
    return bytes([first[0], first[1] & 0xFE]) + first[2:4] + bytes(2) + first[4:-2] + bare(content)


def with_checksum_before(content):
    """As LAME states it: the same bit, and the length in its place all the same."""
    return bytes([content[0], content[1] & 0xFE]) + content[2:]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("state", "is_trimmed"), [(with_vbri, False), (with_checksum, False), (with_checksum_before, True)]
)
def test_lengths_that_are_stated_in_other_ways(tmp_path, state, is_trimmed, mode):
    """The decoder knows the last of these alone, and takes off what the encoder added; of the others all is heard."""
    path = tmp_path / "a.mp3"
    content = state(mp3(mode=mode))
    path.write_bytes(content)
    assert len(heard(path, 44_100)) == (2 * 44_100 if is_trimmed else 1_152 * (len(frame_lengths(content)) - 1))
    path.write_bytes(content[: len(content) // 2])
    assert heard(path, 44_100) is None
    assert check_audio(path)[1].kind.name == "TRUNCATED_AUDIO"


@pytest.mark.parametrize("mode", MODES)
def test_mp3_inside_wav(tmp_path, mode):
    path = tmp_path / "a.wav"
    sound = bare(mp3(mode=mode))
    form = struct.pack("<HHIIHHHHIHHH", 0x55, 1, 44_100, 20_000, 1, 0, 12, 1, 2, 522, 1, 1_393)
    chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(sound)) + sound
    path.write_bytes(b"RIFF" + struct.pack("<I", len(chunks)) + chunks)
    assert len(heard(path, 44_100)) == 1_152 * len(frame_lengths(sound))
    path.write_bytes(path.read_bytes()[: -len(sound) // 2])
    assert heard(path, 44_100) is None


@pytest.mark.parametrize(
    ("header", "length", "samples", "rate"),
    [
        ("fffd9400", 480, 1_152, 48_000),  # layer II, 160 kbit/s: 144 x 160,000 / 48,000
        ("ffff8400", 256, 384, 48_000),  # layer I, 256 kbit/s: 12 x 256,000 / 48,000 x 4
        ("fff58400", 384, 1_152, 24_000),  # layer II of MPEG-2, 64 kbit/s
    ],
)
def test_layers_one_and_two_state_no_length(tmp_path, header, length, samples, rate):
    """Frames without any allocated bit are silence."""
    path = tmp_path / "a.mp2"
    path.write_bytes((bytes.fromhex(header) + bytes(length - 4)) * 50)
    found = heard(path, rate)
    assert len(found) == 50 * samples
    assert not found.any()
