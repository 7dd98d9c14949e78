"""Audio files of every kind that is read, opened so that each is decoded to its end or refused in one line."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import soundfile

from safe_train.audio.formats import AUDIO_SUFFIXES, MPEG_SUFFIXES, READABLE, describe_content, is_read
from safe_train.audio.mpeg import parse_mpeg, skip_id3
from safe_train.audio.ogg import CUT, find_ogg_fault
from safe_train.audio.riff import find_unstated_size
from safe_train.errors import InputError

WHOLE = "a whole file"
"""What is expected of a file that ends early, by which the error is known."""

LOWEST_RATE = 40
"""In Hz. Half of it is the highest pitch that a file can hold, and below 20 Hz nobody hears one."""

HEARABLE_RATE = f"a rate of at least {LOWEST_RATE} Hz"
"""What is expected of a file whose rate is lower, by which the error is known."""

_BLOCK_SAMPLES = 2**20
_HEAD_BYTES = 4096
_UNKNOWN_FORMAT = 1  # SF_ERR_UNRECOGNISED_FORMAT
_UNKNOWN_FRAMES = 2**63 - 1  # SF_COUNT_MAX
_NO_AUDIO = "no audio that libsndfile knows"
_CONVERT = "convert the file to WAV or FLAC"
_FETCH = "fetch or convert the file again, or remove it"

# First bytes of containers that are no MPEG audio, whatever a file is called.
_OTHER_MAGIC = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"fLaC", b"OggS", b"caff", b".snd", b"dns.", b"riff", b"NIST")

# What libsndfile notes of a chunk with sound that ends behind the file: its length, and what is left of it.
_SIZE_NOTE = re.compile(
    r"^\s*(?:data|SSND|BODY|riff|Riff size|Data Size|Data length) *:? *(\d+) \(?should be (\d+)\)?", re.MULTILINE
)

# Writers that cannot seek back leave a placeholder: 0xFFFFFFFF (FFmpeg) or 0x7FFFF000 (SoX), some less the header.
_PLACEHOLDERS = (range(0x7FFF0000, 0x80000001), range(0xFFFF0000, 0x100000000))

_NIST_COUNT = re.compile(rb"\nsample_count -i (\d+)\s")


class AudioFile:
    """An open audio file.

    Attributes:
        container: its format in libsndfile's words.
        rate: its sampling rate in Hz.
        num_frames: samples for each channel that the file states or that were counted, None where nothing tells.
    """

    def __init__(
        self, path: Path, sound: soundfile.SoundFile, num_frames: int | None, container: str | None = None
    ) -> None:
        """Takes what libsndfile opened; ``container`` is the file's, where it opened only what is in it."""
        self._path, self._sound = path, sound
        self._block_size = max(1, _BLOCK_SAMPLES // sound.channels)
        self.container, self.rate, self.num_frames = container or sound.format, sound.samplerate, num_frames

    def mono_blocks(self, limit: int | None = None) -> Iterator[np.ndarray]:
        """The mean of the channels, float32, in pieces: so many samples, or all.

        Behind the last piece it is looked whether the file goes on to its end.

        Raises:
            InputError: the file ends early.
        """
        ends = [end for end in (limit, self.num_frames) if end is not None]
        end, num_read = min(ends, default=sys.maxsize), 0
        while num_read < end and len(block := self._read(min(self._block_size, end - num_read))):
            num_read += len(block)
            with np.errstate(all="ignore"):  # what is not finite stays so, and is reported
                mono = block.mean(axis=1)
            yield mono
        if self.num_frames is not None and num_read < end:
            raise _early_end(self._path, f"{num_read} of {self.num_frames} samples for each channel")
        if self.container == "FLAC":  # the only one of which nothing but decoding tells that it was cut
            self._require_flac_end(num_read)

    def _require_flac_end(self, num_read: int) -> None:
        """An error of the decoder, or this one, if the last sample is not there."""
        if self.num_frames is None:
            self._decode_on(self._sound)
        elif num_read < self.num_frames and not self._has_last_sample(self.num_frames):
            # Also a whole file may be one in which nothing is found: some state other lengths of blocks than they have.
            with self._path.open("rb", buffering=0) as file, _open_by_number(file) as sound:
                if (count := self._decode_on(sound)) < self.num_frames:
                    raise _early_end(self._path, f"{count} of {self.num_frames} samples for each channel")

    def _has_last_sample(self, num_frames: int) -> bool:
        """Whether the last of so many samples is found without those before it."""
        try:
            self._sound.seek(num_frames - 1)
            return len(self._read(1)) == 1
        except soundfile.LibsndfileError:
            return False

    def _decode_on(self, sound: soundfile.SoundFile) -> int:
        """Decodes the rest of a file, a piece at a time; samples for each channel that were left."""
        count = 0
        while found := len(sound.read(self._block_size, dtype="float32", always_2d=True)):
            count += found
        return count

    def _read(self, num_frames: int) -> np.ndarray:
        return self._sound.read(num_frames, dtype="float32", always_2d=True)


@contextmanager
def open_audio(path: Path) -> Iterator[AudioFile]:
    """Opens an audio file; its content decides what it is, and its name whether it is looked at.

    Raises:
        InputError: the file is missing, cannot be read or decoded, ends early, or has a rate below ``LOWEST_RATE``.
    """
    if not path.is_file():
        raise InputError(path, "an audio file", "no such file", "check the path or remove its entry")
    if path.suffix.lower() not in AUDIO_SUFFIXES:
        shown = f"a name that ends in {' '.join(AUDIO_SUFFIXES)}"
        raise InputError(path, shown, repr(path.suffix), "convert the file or mend its name")
    try:
        with path.open("rb", buffering=0) as file, _open_content(path, file) as audio:
            if audio.rate < LOWEST_RATE:
                raise InputError(path, HEARABLE_RATE, f"{audio.rate} Hz", "mend the file's header or remove the file")
            yield audio
    except soundfile.LibsndfileError as error:
        raise _unreadable(path, error.error_string.rstrip("."), "replace or remove the file") from error
    except OSError as error:
        raise _unreadable(path, str(error.strerror), "replace or remove the file") from error


@contextmanager
def _open_content(path: Path, file: io.FileIO) -> Iterator[AudioFile]:
    head = file.read(_HEAD_BYTES)
    if head.startswith(b"OggS") and (fault := find_ogg_fault(file)):
        raise _early_end(path, fault) if fault == CUT else _unreadable(path, fault, _CONVERT)
    if _may_be_mpeg(path, file, head):
        with _open_mpeg(path, file, head) as (sound, num_frames):
            yield AudioFile(path, sound, num_frames)
        return
    place = find_unstated_size(file)
    file.seek(0)
    with (
        nullcontext(file) if place is None else _Patched(path, place) as source,
        _open_sound(path, head, source) as sound,
    ):
        if not is_read(sound.format):
            raise _unreadable(path, f"libsndfile's format {sound.format}", _CONVERT)
        num_frames = _read_stated_frames(path, sound, head)
        if sound.subtype != "MPEG_LAYER_III":
            yield AudioFile(path, sound, num_frames)
            return
    with _open_mpeg(path, file, head) as (frames, num_frames):
        yield AudioFile(path, frames, num_frames, sound.format)


@contextmanager
def _open_mpeg(path: Path, file: io.FileIO, head: bytes) -> Iterator[tuple[soundfile.SoundFile, int]]:
    """The MPEG audio of a file, also of one that is wrapped up as WAV, and its samples for each channel."""
    file.seek(0)
    stream = parse_mpeg(file.readall())
    if stream is None:
        raise _unreadable(path, describe_content(head) or _NO_AUDIO, _FETCH)
    if stream.ends_early:
        raise _early_end(path, f"{stream.num_frames} of {stream.stated} MPEG frames")
    with _Sequential(cast("BinaryIO", stream.open())) as sound:
        yield sound, sound.frames if stream.num_samples is None else stream.num_samples


def _open_sound(path: Path, head: bytes, source: io.FileIO) -> soundfile.SoundFile:
    try:
        return _Sequential(cast("BinaryIO", source)) if isinstance(source, _Patched) else _open_by_number(source)
    except soundfile.LibsndfileError as error:
        if (found := describe_content(head)) is None and error.code != _UNKNOWN_FORMAT:
            raise
        raise _unreadable(path, found or _NO_AUDIO, _FETCH) from error


def _open_by_number(file: io.FileIO) -> soundfile.SoundFile:
    """A file read without going through Python; opened by its name, it would be taken for what the name tells."""
    return _Sequential(cast("BinaryIO", file.fileno()), closefd=False)


def _read_stated_frames(path: Path, sound: soundfile.SoundFile, head: bytes) -> int | None:
    """Samples for each channel that the header states; None if it does not, as of a FLAC file that was streamed."""
    for size, left in _SIZE_NOTE.findall(sound.extra_info):
        if int(left) < int(size) and not any(int(size) in placeholders for placeholders in _PLACEHOLDERS):
            raise _early_end(path, f"{left} of {size} bytes of audio")
    if sound.format == "NIST" and (found := _NIST_COUNT.search(head)):  # libsndfile takes what the file has
        if sound.frames < (num_frames := int(found[1])):
            raise _early_end(path, f"{sound.frames} of {num_frames} samples for each channel")
        return num_frames
    return sound.frames if sound.frames < _UNKNOWN_FRAMES else None


def _may_be_mpeg(path: Path, file: io.FileIO, head: bytes) -> bool:
    """Whether a file is taken for MPEG audio: by a frame or a tag at its beginning, or else by its name."""
    if head.startswith(b"ID3"):
        file.seek(skip_id3(head))
        return file.read(4) != b"fLaC"
    begins_with_sync = head[:1] == b"\xff" and head[1:2] >= b"\xe0"
    return begins_with_sync or (path.suffix.lower() in MPEG_SUFFIXES and head[:4] not in _OTHER_MAGIC)


class _Sequential(soundfile.SoundFile):
    """A file that is read from its beginning on.

    soundfile goes to the place where it is after each piece. In MP3 and Opus files that place is another one, or lacks
    what the decoder had of the frames before; a file that says it cannot seek is left where it is.
    """

    def seekable(self) -> bool:
        return False


class _Patched(io.FileIO):
    """A file that shows 0xFFFFFFFF in one place: a size that is not known."""

    def __init__(self, path: Path, start: int) -> None:
        with path.open("rb", buffering=0) as file:
            super().__init__(os.dup(file.fileno()))
        self._places = range(start, start + 4)

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] - it is cffi's buffer
        start = self.tell()
        count = super().readinto(buffer)
        for place in self._places:
            if start <= place < start + count:
                buffer[place - start : place - start + 1] = b"\xff"
        return count


def _early_end(path: Path, got: str) -> InputError:
    return InputError(path, WHOLE, got, "fetch the file again or remove it")


def _unreadable(path: Path, got: str, hint: str) -> InputError:
    return InputError(path, f"readable {READABLE}", got, hint)
