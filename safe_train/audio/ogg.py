"""What is wrong with the pages of an OGG file, which libsndfile reads without an error (RFC 3533, section 6)."""

from __future__ import annotations

import io

_MAGIC = b"OggS"
_HEADER = 27
_BEGINS = 0x02
_BLOCK = 2**16

CUT = "an OGG file that ends within a page"
CHAINED = "several OGG streams one behind another, of which the decoder reads the first"


def find_ogg_fault(file: io.FileIO) -> str | None:
    """``CUT``, ``CHAINED`` or None.

    Whether a page says that it is the last does not count: it is missing wherever a recording or a broadcast was
    stopped, and all of it is there.
    """
    size = file.seek(0, 2)
    start, has_sound = 0, False
    while start < size:
        file.seek(start)
        header = file.read(_HEADER + 255)
        if not header.startswith(_MAGIC):
            if header and _MAGIC.startswith(header):
                return CUT
            start = _find_page(file, start + 1)
            continue
        if len(header) < _HEADER or len(header) < (data := _HEADER + header[_HEADER - 1]):
            return CUT
        begins = bool(header[5] & _BEGINS)
        if begins and has_sound:
            return CHAINED
        has_sound |= not begins
        start += data + sum(header[_HEADER:data])
    return CUT if start > size else None


def _find_page(file: io.FileIO, start: int) -> int:
    """Where the next page begins, or the end of the file, if there is none."""
    while True:
        file.seek(start)
        block = file.read(_BLOCK)
        if (found := block.find(_MAGIC)) >= 0:
            return start + found
        if len(block) < _BLOCK:
            return start + len(block)
        start += _BLOCK - len(_MAGIC) + 1
