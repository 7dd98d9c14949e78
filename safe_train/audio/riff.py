"""WAV files whose writer could not go back to write how much sound there is."""

from __future__ import annotations

import io

_CHUNK = 8


def find_unstated_size(file: io.FileIO) -> int | None:
    """Where a WAV file says that its sound has 0 bytes although what follows is no chunk but sound; None otherwise.

    Players read such a file to its end.
    """
    file.seek(0)
    head = file.read(12)
    if head[:4] not in (b"RIFF", b"RIFX") or head[8:] != b"WAVE":
        return None
    order = "big" if head[:4] == b"RIFX" else "little"
    size, place = file.seek(0, io.SEEK_END), 12
    while place + _CHUNK <= size:
        file.seek(place)
        chunk = file.read(_CHUNK)
        length = int.from_bytes(chunk[4:], order)
        if chunk[:4] == b"data" and not length:
            return None if _are_chunks(file, place + _CHUNK, size, order) else place + 4
        if chunk[:4] == b"data":
            return None
        place += _CHUNK + length + length % 2
    return None


def _are_chunks(file: io.FileIO, place: int, size: int, order: str) -> bool:
    """Whether there is nothing but chunks from a place to the end of the file."""
    while place + _CHUNK <= size:
        file.seek(place)
        chunk = file.read(_CHUNK)
        if not all(0x20 <= byte < 0x7F for byte in chunk[:4]):
            return False
        length = int.from_bytes(chunk[4:], order)  # type: ignore[arg-type] - "big" or "little"
        place += _CHUNK + length + length % 2
    return place in (size, size + 1)
