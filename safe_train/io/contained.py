"""Files inside of others as paths: what is read of one comes from its container."""

from __future__ import annotations

import io
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class FileStatus:
    """What :meth:`ContainedFile.stat` knows of a file, by the names of ``os.stat_result``."""

    st_mode: int
    st_size: int
    st_mtime_ns: int
    st_ino: int


class ContainedFile(type(Path())):  # type: ignore[misc] - the class of this system's paths
    """The path ``container/name`` of a file that lies inside of another, of which the bytes can be read.

    Name, suffix and comparison are a path's. A path that is derived from this one, such as its parent, is an ordinary
    one. A subclass says where the bytes are.

    Attributes:
        container: the file or folder that holds it.
        name_inside: the file's path in the container.
        place: where in the container, as the subclass counts.
    """

    container: Path
    name_inside: str
    place: tuple[Any, ...]

    def __new__(cls, container: Path, name: str, *place: Any) -> Any:
        """Takes the container, the file's name in it, and its place."""
        found = super().__new__(cls, container, name.lstrip("/"))
        found.container, found.name_inside, found.place = Path(container), name.lstrip("/"), place
        return found

    def __init__(self, container: Path, name: str, *place: Any) -> None:
        del place
        if sys.version_info >= (3, 12):
            super().__init__(container, name.lstrip("/"))

    def content(self) -> bytes:
        """The file's bytes.

        Raises:
            OSError: the container cannot be read, or ends before the file does.
        """
        raise NotImplementedError

    @property
    def size(self) -> int:
        """How many bytes it has; asked for every file when a data set is read, so nothing is to be read for it."""
        raise NotImplementedError

    def __reduce__(self) -> Any:
        """For other processes."""
        return type(self), (self.container, self.name_inside, *self.place)

    def with_segments(self, *segments: Any) -> Path:
        """An ordinary path, from Python 3.12 on."""
        return Path(*segments)

    def is_contained(self) -> bool:
        """Whether it is no path that was derived from one, before Python 3.12."""
        return "place" in vars(self)

    def stat(self, *, follow_symlinks: bool = True) -> Any:
        """Kind, time and number are the container's."""
        if not self.is_contained():
            return super().stat(follow_symlinks=follow_symlinks)
        outer = self._file().stat()
        return FileStatus(outer.st_mode, self.size, outer.st_mtime_ns, outer.st_ino)

    def is_file(self, **options: Any) -> bool:
        """Whether the container is there."""
        return self._file().is_file() if self.is_contained() else super().is_file(**options)

    def _file(self) -> Path:
        """The file that holds it, where the container is a folder."""
        return self.container

    def read_bytes(self) -> bytes:
        """As :meth:`content`."""
        return self.content() if self.is_contained() else super().read_bytes()

    def open(self, mode: str = "r", buffering: int = -1, *options: Any, **named: Any) -> Any:
        """The file's bytes as a file of their own without a name, which can also be read by its number."""
        if not self.is_contained():
            return super().open(mode, buffering, *options, **named)
        if mode != "rb":
            raise io.UnsupportedOperation(f"a file inside of another is read as bytes, not opened by {mode!r}")
        content, file = self.content(), _anonymous_file(buffering)
        file.write(content)
        file.seek(0)
        return file


def _anonymous_file(buffering: int) -> Any:
    """A file in memory where the system has such a thing, or else a temporary one; gone once it is closed."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("contained"), "w+b", buffering=buffering)
    return tempfile.TemporaryFile("w+b", buffering=buffering)
