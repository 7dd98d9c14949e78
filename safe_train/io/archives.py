"""Files in tar archives as paths, each read from its place in the archive."""

from __future__ import annotations

import errno
import io
import os
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from safe_train.errors import InputError

ARCHIVE_SUFFIX = ".tar"
_HINT = "write the archive again, without compression"


@dataclass(frozen=True)
class FileStatus:
    """What :meth:`ArchivedFile.stat` knows of a file, by the names of ``os.stat_result``."""

    st_mode: int
    st_size: int
    st_mtime_ns: int
    st_ino: int


class ArchivedFile(type(Path())):  # type: ignore[misc] - the class of this system's paths
    """A file in an uncompressed tar archive: the path ``archive.tar/name``, of which the bytes can be read.

    Name, suffix and comparison are a path's. What is read comes from the archive; a path that is derived from this one,
    such as its parent, is an ordinary one.

    Attributes:
        archive: the archive.
        offset: where the file's bytes begin in it.
        size: how many there are.
    """

    archive: Path
    offset: int
    size: int

    def __new__(cls, archive: Path, name: str, offset: int, size: int) -> ArchivedFile:
        """Takes the archive, the file's name in it, and where its bytes are."""
        found = super().__new__(cls, archive, name.lstrip("/"))
        found.archive, found.offset, found.size = Path(archive), offset, size
        return found

    def __init__(self, archive: Path, name: str, offset: int, size: int) -> None:
        del offset, size
        if sys.version_info >= (3, 12):
            super().__init__(archive, name.lstrip("/"))

    def __reduce__(self) -> Any:
        """For other processes."""
        return type(self), (self.archive, self.name_in_archive, self.offset, self.size)

    def with_segments(self, *segments: Any) -> Path:
        """An ordinary path, from Python 3.12 on."""
        return Path(*segments)

    @property
    def name_in_archive(self) -> str:
        """Its path in the archive."""
        return os.path.relpath(self, self.archive)

    def is_archived(self) -> bool:
        """Whether it is no path that was derived from one, before Python 3.12."""
        return "offset" in vars(self)

    def stat(self, *, follow_symlinks: bool = True) -> Any:
        """Kind, time and place are the archive's."""
        if not self.is_archived():
            return super().stat(follow_symlinks=follow_symlinks)
        of_archive = self.archive.stat()
        return FileStatus(of_archive.st_mode, self.size, of_archive.st_mtime_ns, of_archive.st_ino)

    def is_file(self, **options: Any) -> bool:
        """Whether the archive is there."""
        return self.archive.is_file() if self.is_archived() else super().is_file(**options)

    def read_bytes(self) -> bytes:
        """The file's bytes.

        Raises:
            OSError: the archive cannot be read, or ends before the file does.
        """
        if not self.is_archived():
            return super().read_bytes()
        with self.archive.open("rb") as archive:
            archive.seek(self.offset)
            content = archive.read(self.size)
        if len(content) < self.size:
            raise OSError(errno.EIO, "its archive ends early", str(self))
        return content

    def open(self, mode: str = "r", buffering: int = -1, *options: Any, **named: Any) -> Any:
        """The file's bytes as a file of their own without a name, which can also be read by its number."""
        if not self.is_archived():
            return super().open(mode, buffering, *options, **named)
        if mode != "rb":
            raise io.UnsupportedOperation(f"a file in an archive is read as bytes, not opened by {mode!r}")
        content, file = self.read_bytes(), _anonymous_file(buffering)
        file.write(content)
        file.seek(0)
        return file


def list_archive(path: Path) -> Iterator[ArchivedFile]:
    """The regular files in an archive, in its order; nothing is extracted.

    Raises:
        InputError: it is not there, is compressed, no tar archive, or ends early.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.isreg() and not member.issparse():
                    yield ArchivedFile(path, member.name, member.offset_data, member.size)
    except tarfile.TarError as error:
        raise InputError(path, "an uncompressed tar archive", str(error), _HINT) from error
    except OSError as error:
        raise InputError(path, "an uncompressed tar archive", error.strerror or str(error), _HINT) from error


def find_file(path: Path) -> Path:
    """The path, or the file that it names in an archive: what the text of an :class:`ArchivedFile` is read back as."""
    for archive in path.parents:
        if archive.suffix == ARCHIVE_SUFFIX and archive.is_file():
            return _by_path(archive, archive.stat().st_mtime_ns).get(path, path)
    return path


@lru_cache(maxsize=64)
def _by_path(archive: Path, _changed: int) -> dict[Path, ArchivedFile]:
    return {file: file for file in list_archive(archive)}


def _anonymous_file(buffering: int) -> Any:
    """A file in memory where the system has such a thing, or else a temporary one; gone once it is closed."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("archived"), "w+b", buffering=buffering)
    return tempfile.TemporaryFile("w+b", buffering=buffering)
