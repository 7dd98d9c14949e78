"""A corpus of audio files: each is heard whole or refused in one line, and the check says what training says."""

import io
import struct
from collections import Counter

import numpy as np
import pytest
import soundfile
import torch

from safe_train.audio.formats import CONTAINERS, is_read
from safe_train.audio.waveform import load_waveform
from safe_train.data.validation.check import check_audio
from safe_train.errors import InputError

RATES = (16_000, 11_127, 44_099, 48_000)
CHANNELS = (1, 2, 6)
CASES = [(name, subtype) for name in soundfile.available_formats() for subtype in soundfile.available_subtypes(name)]

# What libsndfile lists but does not write, at any rate and number of channels.
UNWRITTEN = {("MP3", "MPEG_LAYER_I"), ("MP3", "MPEG_LAYER_II"), ("WAV", "MPEG_LAYER_III"), ("AIFF", "DWVW_12")}

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


# --- MPEG audio


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


ID3 = b"ID3\x04\0\0\0\0\x01\x00" + bytes(128)
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


# --- WAV and its kin with sizes that are not those of the sound


def encoded(container, subtype=None, samples=NOISE, **options):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16_000, format=container, subtype=subtype, **options)
    return buffer.getvalue()


def sized(content, magic, size, form):
    place = content.index(magic) + 4
    return content[:place] + struct.pack(form, size) + content[place + struct.calcsize(form) :]


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0xFFFFFFDB, 0x7FFFF000, 0x7FFFFFFF])
@pytest.mark.parametrize("endian", ["LITTLE", "BIG"])
@pytest.mark.parametrize("riff", [None, 0, 36, 0xFFFFFFFF])
def test_wav_of_a_writer_that_cannot_seek(tmp_path, size, endian, riff):
    path = tmp_path / "a.wav"
    content = encoded("WAV", "PCM_16", endian=endian)
    form = "<I" if endian == "LITTLE" else ">I"
    content = sized(content, b"data", size, form)
    if riff is not None:
        content = content[:4] + struct.pack(form, riff) + content[8:]
    path.write_bytes(content)
    np.testing.assert_allclose(heard(path, 16_000), NOISE, atol=2**-15)


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


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("damage", ["lost", "spoilt"])
def test_an_ogg_file_of_which_a_page_is_lost_or_spoilt(tmp_path, subtype, damage):
    """The pages that are left are whole, and are played without a word; a window in front of it is right."""
    content = encoded("OGG", subtype, np.tile(NOISE, 4))
    places = [place for place in range(len(content)) if content.startswith(b"OggS", place)]
    start, end = places[len(places) // 2 :][:2]
    page = b"" if damage == "lost" else content[start : end - 9] + bytes(9)
    path = tmp_path / "a.ogg"
    path.write_bytes(content)
    assert len(heard(path, 16_000)) == 4 * len(NOISE)
    whole = load_waveform(path, 16_000)
    path.write_bytes(content[:start] + page + content[end:])
    with pytest.raises(InputError, match=f"expected a whole file, got \\d+ of {4 * len(NOISE)} samples"):
        load_waveform(path, 16_000)
    assert check_audio(path)[1].kind.name == "TRUNCATED_AUDIO"
    assert torch.equal(load_waveform(path, 16_000, 1_600), whole[:1_600])


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_every_name_is_looked_at_in_either_case(tmp_path, suffix):
    container = CONTAINERS[suffix][0]
    for name in (f"a{suffix}", f"A{suffix.upper()}"):
        write(tmp_path / name, container, soundfile.default_subtype(container), 8_000, 1)
        assert heard(tmp_path / name, 8_000) is not None
