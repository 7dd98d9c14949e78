"""Which audio files are read, by the ends of their names and by what is in them."""

from __future__ import annotations

_WAV = ("WAV", "WAVEX", "RF64", "NIST")

CONTAINERS: dict[str, tuple[str, ...]] = {
    ".wav": _WAV,
    ".flac": ("FLAC",),
    ".ogg": ("OGG",),
    ".mp3": ("MP3",),
    ".oga": ("OGG",),
    ".opus": ("OGG",),
    ".wave": _WAV,
    ".bwf": _WAV,
    ".rf64": _WAV,
    ".w64": ("W64",),
    ".aiff": ("AIFF",),
    ".aif": ("AIFF",),
    ".aifc": ("AIFF",),
    ".au": ("AU",),
    ".snd": ("AU",),
    ".caf": ("CAF",),
    ".mp2": ("MP3",),
    ".mpga": ("MP3",),
    ".sph": ("NIST",),
    ".nist": ("NIST",),
    ".8svx": ("SVX",),
    ".svx": ("SVX",),
    ".iff": ("SVX",),
    ".ircam": ("IRCAM",),
    ".sf": ("IRCAM",),
    ".pvf": ("PVF",),
    ".htk": ("HTK",),
    ".wve": ("WVE",),
}
"""What a file may hold, in libsndfile's words, by the end of its name.

Of libsndfile's formats those are left out that need to be told what they hold (RAW), that keep it in a second file
(SD2), or whose missing end libsndfile does not tell (AVR, MAT4, MAT5, MPC2K, PAF, SDS, VOC, XI).
"""

AUDIO_SUFFIXES = tuple(CONTAINERS)
"""Ends of names, in the order in which files of one name count."""

READABLE = "audio such as WAV, FLAC, OGG or MP3"

MPEG_SUFFIXES = tuple(suffix for suffix, held in CONTAINERS.items() if held == ("MP3",))

_READ = frozenset(name for held in CONTAINERS.values() for name in held)

# First bytes (and where they stand) of what is often found under the name of an audio file.
_OTHERS = (
    (4, b"ftyp", "an MP4 file (M4A, AAC)"),
    (0, b"\x1aE\xdf\xa3", "a Matroska or WebM file"),
    (0, b"0&\xb2u", "an ASF file (WMA)"),
    (0, b"#!AMR", "AMR speech"),
    (0, b"wvpk", "a WavPack file"),
    (0, b"MAC ", "a Monkey's Audio file"),
    (0, b"\xff\xf1", "an AAC stream"),
    (0, b"\xff\xf9", "an AAC stream"),
    (28, b"\x7fFLAC", "FLAC inside OGG"),
    (28, b"Speex   ", "Speex inside OGG"),
    (28, b"\x80theora", "video inside OGG"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"version https://git-lfs", "a pointer of Git LFS, not the file itself"),
)


def is_read(container: str) -> bool:
    """Whether files of a format are read at all."""
    return container in _READ


def describe_content(head: bytes) -> str | None:
    """What a file is that libsndfile does not read, by its first bytes; None if they tell nothing."""
    for start, magic, words in _OTHERS:
        if head[start : start + len(magic)] == magic:
            return words
    if head.lstrip()[:1] == b"<":
        return "a page of HTML or XML"
    return None
