"""MPEG audio (MP1, MP2, MP3) frame by frame: how many there are, and a stream of them that libsndfile reads to its end.

libsndfile stops at the length that the file's first frame states (Xing, Info) and, where none states one, at an
estimate from the first frames. With a variable rate that is a part of the sound. So frames are counted, by the headers
of ISO/IEC 11172-3, 2.4.1.3, and 13818-3.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

_HEADER = 4
_KIND = 0xFFFE0C00  # bits of a header that no frame of a stream changes: sync word, version, layer, sampling rate
_SYNC = 0xFFE00000

_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_LAYERS = {3: 1, 2: 2, 1: 3}

# kbit/s, by whether the version is 1, and by layer; index 0 is the free format, whose frames do not tell their length.
_BITRATES = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}

# Xing and Info stand behind the side information, whose length is that of (version 1, mono).
_SIDE_INFORMATION = {(True, True): 17, (True, False): 32, (False, True): 9, (False, False): 17}
_VBRI_START, _VBRI_FRAMES = _HEADER + 32, 14

_LONGEST_FRAME = 2_048
"""Bytes; layer II at 384 kbit/s and 32 kHz has 1,728."""


@dataclass(frozen=True)
class MpegHeader:
    """What the first frame states.

    Attributes:
        length: its bytes, 0 if it is a frame of sound.
        num_frames: frames of sound behind it, or None if it does not tell.
        is_decoders: whether it is of the kind that libsndfile's decoder reads (Xing, Info), where it looks for it.
    """

    length: int = 0
    num_frames: int | None = None
    is_decoders: bool = False


@dataclass(frozen=True)
class MpegStream:
    """The frames of a file.

    Attributes:
        frames: one behind another, without tags and without what lies between them.
        num_frames: how many there are.
        samples_per_frame: for each channel.
        header: what the first frame is, if it is no sound; it does not count.
        is_cut: whether a part of a frame follows the last one.
    """

    frames: bytes
    num_frames: int
    samples_per_frame: int
    header: MpegHeader
    is_cut: bool

    @property
    def stated(self) -> int | None:
        """How many frames there should be; None where nothing tells."""
        return self.header.num_frames

    @property
    def ends_early(self) -> bool:
        """Whether there are fewer frames than there should be; some programs count the header frame."""
        return self.stated is not None and self.num_frames < self.stated - (not self.is_cut)

    @property
    def num_samples(self) -> int | None:
        """For each channel, or None where the decoder tells it, who takes off what the encoder added at both ends."""
        return None if self._is_decoders else self.num_frames * self.samples_per_frame

    def open(self) -> io.RawIOBase:
        """What libsndfile is to read.

        Without a length that is right it is made to expect more, as if copies of the first frame followed.
        """
        if self._is_decoders:
            return _Repeating(self.frames, b"", 0)
        frames = self.frames[self.header.length :]
        first_frame = frames[: _length_at(frames, 0, _kind_at(frames, 0))]
        return _Repeating(frames, first_frame, self.num_frames * _LONGEST_FRAME)

    @property
    def _is_decoders(self) -> bool:
        return self.header.is_decoders and self.stated == self.num_frames


def parse_mpeg(content: bytes) -> MpegStream | None:
    """The MPEG audio in the bytes of a file, or None if no two frames (or one, and nothing else) are in them."""
    start = _find_frame(content, skip_id3(content))
    if start is None:
        return None
    kind = _kind_at(content, start)
    places = list(_iterate_frames(content, start, kind))
    frames = _join(content, places)
    header = _parse_header(frames[: places[0][1]])
    return MpegStream(
        frames=frames,
        num_frames=len(places) - (header.length > 0),
        samples_per_frame=_samples_per_frame(kind),
        header=header,
        is_cut=_length_at(content, sum(places[-1]), kind) is not None,
    )


def skip_id3(content: bytes) -> int:
    """Where ID3v2 tags end; their length is in four bytes of seven bits (id3.org, ID3v2.4, 3.1)."""
    start = 0
    while content[start : start + 3] == b"ID3" and len(content) >= start + 10:
        length = 0
        for byte in content[start + 6 : start + 10]:
            length = length << 7 | byte & 0x7F
        start += 10 + length + (10 if content[start + 5] & 0x10 else 0)
    return start


def _find_frame(content: bytes, start: int, kind: int | None = None) -> int | None:
    """The next frame that another of its kind follows, or the end of the file."""
    while (start := content.find(b"\xff", start)) >= 0:
        found = _kind_at(content, start) if kind is None else kind
        if (length := _length_at(content, start, found)) is not None:
            end = start + length
            if end == len(content) or content.startswith(b"TAG", end) or _length_at(content, end, found) is not None:
                return start
        start += 1
    return None


def _iterate_frames(content: bytes, start: int, kind: int) -> Iterator[tuple[int, int]]:
    """Start and length of the frames of a kind; what lies between them is stepped over."""
    position: int | None = start
    while position is not None:
        length = _length_at(content, position, kind)
        if length is None:
            position = _find_frame(content, position + 1, kind)
        elif position + length > len(content):
            return
        else:
            yield position, length
            position += length


def _join(content: bytes, places: list[tuple[int, int]]) -> bytes:
    start, end = places[0][0], sum(places[-1])
    if end - start == sum(length for _, length in places):
        return content[start:end]
    return b"".join(content[start : start + length] for start, length in places)


def _kind_at(content: bytes, start: int) -> int:
    return int.from_bytes(content[start : start + _HEADER]) & _KIND


def _length_at(content: bytes, start: int, kind: int) -> int | None:
    """Length of the frame that begins there, if one of that kind does."""
    header = int.from_bytes(content[start : start + _HEADER])
    if header & _KIND != kind or start + _HEADER > len(content):
        return None
    return _frame_length(header >> 9)


@lru_cache(maxsize=4096)
def _frame_length(header: int) -> int | None:
    """Of a header's first 23 bits; None if they are no frame's or of the free format."""
    bits = header << 9
    version, layer = bits >> 19 & 3, _LAYERS.get(bits >> 17 & 3)
    bitrate, rate, padding = bits >> 12 & 15, bits >> 10 & 3, bits >> 9 & 1
    if bits & _SYNC != _SYNC or version == 1 or layer is None or rate == 3 or not 0 < bitrate < 15:
        return None
    bits_per_second = 1_000 * _BITRATES[version == 3, layer][bitrate - 1]
    if layer == 1:
        return (12 * bits_per_second // _RATES[version][rate] + padding) * 4
    slots = 144 if layer == 2 or version == 3 else 72
    return slots * bits_per_second // _RATES[version][rate] + padding


def _samples_per_frame(kind: int) -> int:
    version, layer = kind >> 19 & 3, _LAYERS[kind >> 17 & 3]
    return {1: 384, 2: 1_152, 3: 1_152 if version == 3 else 576}[layer]


def _parse_header(first: bytes) -> MpegHeader:
    """What the first frame states; layers I and II have no header frames."""
    bits = int.from_bytes(first[:_HEADER])
    if _LAYERS[bits >> 17 & 3] != 3:
        return MpegHeader()
    start = _HEADER + _SIDE_INFORMATION[bits >> 19 & 3 == 3, bits >> 6 & 3 == 3]
    for place in (start, start + 2):  # a checksum may stand before the side information
        if first[place : place + 4] in (b"Xing", b"Info"):
            tells = int.from_bytes(first[place + 4 : place + 8]) & 1
            return MpegHeader(
                len(first), int.from_bytes(first[place + 8 : place + 12]) if tells else None, place == start
            )
    if first[_VBRI_START : _VBRI_START + 4] == b"VBRI":
        place = _VBRI_START + _VBRI_FRAMES
        return MpegHeader(len(first), int.from_bytes(first[place : place + 4]))
    return MpegHeader()


class _Repeating(io.RawIOBase):
    """Bytes that are followed by so many more, which repeat a part."""

    def __init__(self, content: bytes, part: bytes, num_more: int) -> None:
        self._content, self._part = content, part
        self._size = len(content) + num_more
        self._position = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] - it is cffi's buffer
        count = min(len(buffer), max(0, self._size - self._position))
        found = self._content[self._position : self._position + count]
        if missing := count - len(found):
            offset = max(0, self._position - len(self._content)) % len(self._part)
            repeats = (offset + missing) // len(self._part) + 1
            found += (self._part * repeats)[offset : offset + missing]
        buffer[:count] = found
        self._position += count
        return count
