"""A corpus of audio files: each is heard whole or refused in one line, and the check says what training says."""

import io
import struct
from collections import Counter

import numpy as np
import pytest
import soundfile

from safe_train.audio.formats import CONTAINERS, is_read
from safe_train.audio.waveform import load_waveform
from safe_train.errors import InputError
from tests.audio.corpus import (
    AIFF,
    AU,
    CHUNK,
    FLAC,
    ID3,
    NOISE,
    OPUS,
    VORBIS,
    WAV,
    as_soundfile_reads_it,
    encoded,
    heard,
    of_unknown_length,
    sized,
    suffix_of,
    without_end,
    write,
)

RATES = (16_000, 11_127, 44_099, 48_000)
CHANNELS = (1, 2, 6)
CASES = [(name, subtype) for name in soundfile.available_formats() for subtype in soundfile.available_subtypes(name)]

# What libsndfile lists but does not write, at any rate and number of channels.
UNWRITTEN = {("MP3", "MPEG_LAYER_I"), ("MP3", "MPEG_LAYER_II"), ("WAV", "MPEG_LAYER_III"), ("AIFF", "DWVW_12")}


@pytest.mark.parametrize(("container", "subtype"), CASES)
def test_everything_that_libsndfile_writes(tmp_path, container, subtype):
    """Of six channels, odd rates and every codec; right samples are those of soundfile's own decode in one call."""
    path = tmp_path / f"a{suffix_of(container)}"
    counts = Counter()
    for rate in RATES:
        for channels in CHANNELS:
            if not write(path, container, subtype, rate, channels):
                counts["unwritten"] += 1
                continue
            if not is_read(container):
                assert heard(path, rate) is None
                counts["refused"] += 1
                continue
            expected, own_rate = as_soundfile_reads_it(path)  # of a few formats another than it was asked for
            found = heard(path, own_rate)
            assert found is not None, (rate, channels)
            assert len(found) == len(expected)
            np.testing.assert_allclose(found, expected, atol=1e-6)
            assert len(found) >= rate // 4 + 13
            counts["heard"] += 1
    assert sum(counts.values()) == len(RATES) * len(CHANNELS)
    assert (counts["heard"] + counts["refused"] == 0) == ((container, subtype) in UNWRITTEN)


# --- files cut short

LENGTHLESS = ("IRCAM", "PVF")  # state no length: what is there is all that there is


@pytest.mark.parametrize("container", sorted({name for held in CONTAINERS.values() for name in held}))
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_files_that_end_early(tmp_path, container, kept):
    path = tmp_path / f"a{suffix_of(container)}"
    for subtype in soundfile.available_subtypes(container):
        if not write(path, container, subtype, 16_000, 1) and not write(path, container, subtype, 48_000, 2):
            continue
        content = path.read_bytes()
        whole, rate = as_soundfile_reads_it(path)
        path.write_bytes(content[: int(kept * len(content)) | 1])
        found = heard(path, rate)
        if container in LENGTHLESS:
            np.testing.assert_allclose(found, whole[: len(found)], atol=1e-6)
            assert 0 < len(found) < len(whole)
        else:
            assert found is None, subtype


ODD_CHUNK = b"odd " + struct.pack("<I", 5) + b"data\0" + b"\0"
"""A chunk of an odd length is followed by a byte that does not count in it."""

WHOLE = {
    "size 0 behind an odd chunk": ("a.wav", WAV[:12] + ODD_CHUNK + sized(WAV, b"data", 0, "<I")[12:]),
    "chunk behind": ("a.wav", WAV + CHUNK),
    "bytes behind": ("a.wav", WAV + bytes(999)),
    "AIFF of size 0": ("a.aiff", sized(AIFF, b"SSND", 0, ">I")),
    "AIFF of unknown size": ("a.aiff", sized(AIFF, b"SSND", 0xFFFFFFFF, ">I")),
    "AU of unknown size": ("a.au", AU[:8] + b"\xff" * 4 + AU[12:]),
    "FLAC of unknown length": ("a.flac", of_unknown_length(FLAC)),
    "FLAC behind a tag": ("a.flac", ID3 + FLAC),
    "Vorbis in .oga": ("a.oga", VORBIS),
    "Opus": ("a.opus", OPUS),
    "OGG without its end": ("a.ogg", without_end(VORBIS)),
    "OGG and bytes behind": ("a.ogg", VORBIS + b"junk" * 40),
}


@pytest.mark.parametrize(("name", "content"), WHOLE.values(), ids=WHOLE)
def test_heard_whole(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert len(heard(path, 16_000)) == len(NOISE)


@pytest.mark.parametrize("place", [8, 10], ids=["shortest block", "longest block"])
@pytest.mark.parametrize("size", [16, 17, 4_095, 65_535])
@pytest.mark.parametrize("length", [16_000, 48_000])
def test_flac_that_states_other_lengths_of_blocks_than_it_has(tmp_path, place, size, length):
    """STREAMINFO's first four bytes (RFC 9639, section 8.2), by which a decoder looks for a place and nothing else."""
    path = tmp_path / "a.flac"
    samples = np.resize(NOISE, length)
    content = encoded("FLAC", samples=samples)
    path.write_bytes(content[:place] + struct.pack(">H", size) + content[place + 2 :])
    np.testing.assert_allclose(heard(path, 16_000), samples, atol=2**-15)
    cut = path.read_bytes()[: -len(content) // 3]
    path.write_bytes(cut)
    assert heard(path, 16_000) is None


def test_negative_control_no_place_is_found_in_such_a_flac_file():
    content = encoded("FLAC", samples=np.resize(NOISE, 48_000))
    with soundfile.SoundFile(io.BytesIO(content[:8] + b"\0\x10" + content[10:])) as file:
        assert len(file.read()) == 48_000
        with pytest.raises(soundfile.LibsndfileError):
            file.seek(40_000)


@pytest.mark.parametrize("seconds", [0.001, 0.01, 0.024])
@pytest.mark.parametrize(("name", "content"), WHOLE.values(), ids=WHOLE)
def test_a_window_is_refused_for_its_file_alone(tmp_path, name, content, seconds):
    """A window may be shorter than the shortest clip; it is what is heard of the file at its beginning."""
    path = tmp_path / name
    path.write_bytes(content)
    for rate in (8_000, 16_000, 44_100):
        whole, length = load_waveform(path, rate), round(seconds * rate)
        np.testing.assert_allclose(load_waveform(path, rate, length), whole[:length], atol=1e-6)


@pytest.mark.parametrize("window", [80, 400, 4_000])
def test_a_file_that_is_too_short_is_so_in_any_window(tmp_path, window):
    path = tmp_path / "a.wav"
    soundfile.write(path, NOISE[:399], 16_000)
    with pytest.raises(InputError, match=r"at least 0\.025 s, got 399 samples"):
        load_waveform(path, 16_000, window)


MP4 = struct.pack(">I", 32) + b"ftypM4A \0\0\2\0M4A isomiso2" + bytes(2_000)
REFUSED = {
    "M4A": ("a.mp3", MP4, "got an MP4 file (M4A, AAC)"),
    "M4A named WAV": ("a.wav", MP4, "got an MP4 file (M4A, AAC)"),
    "HTML": ("a.mp3", b"\n<!DOCTYPE html><html>404</html>" * 60, "got a page of HTML or XML"),
    "a pointer": ("a.flac", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
    "AAC": ("a.mp3", b"\xff\xf1\x50\x80" + bytes(400), "got an AAC stream"),
    "FLAC inside OGG": (
        "a.oga",
        b"OggS\0\2" + bytes(20) + b"\1\x33\x7fFLAC\1\0\0\1" + FLAC[:42],
        "got FLAC inside OGG",
    ),
    "zeros": ("a.mp3", bytes(4_096), "got no audio that libsndfile knows"),
    "no samples": ("a.wav", sized(WAV[:44], b"data", 0, "<I"), "says it has no samples"),
    "no samples, a chunk behind": ("a.wav", sized(WAV[:44], b"data", 0, "<I") + CHUNK, "says it has no samples"),
    "AU of size 0": ("a.au", AU[:8] + bytes(4) + AU[12:], "that says it has no samples"),
    "OGG streams that were joined": ("a.ogg", VORBIS + VORBIS, "several OGG streams one behind another"),
    "OGG of two kinds": ("a.ogg", VORBIS + OPUS, "several OGG streams one behind another"),
    "OGG cut within a page": ("a.ogg", VORBIS[:-1], "an OGG file that ends within a page"),
    "OGG cut within a mark": ("a.ogg", VORBIS[: VORBIS.rindex(b"OggS") + 2], "an OGG file that ends within a page"),
    "OGG cut within a header": ("a.ogg", VORBIS + b"OggS\0", "an OGG file that ends within a page"),
    "Opus cut": ("a.opus", OPUS[:-1], "an OGG file that ends within a page"),
    "FLAC of unknown length, cut": ("a.flac", of_unknown_length(FLAC)[: len(FLAC) // 2], "Error : flac decoder"),
}


@pytest.mark.parametrize(("name", "content", "words"), REFUSED.values(), ids=REFUSED)
def test_refused_for_what_it_is(tmp_path, capfd, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    assert heard(path, 16_000) is None
    with pytest.raises(InputError) as caught:
        load_waveform(path, 16_000)
    assert words in str(caught.value)
    assert capfd.readouterr() == ("", "")  # decoders write lines of their own
