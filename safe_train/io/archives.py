"""Files in tar archives as paths, each read from its place in the archive."""

from __future__ import annotations

import errno
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from safe_train.errors import InputError
from safe_train.io.contained import ContainedFile

ARCHIVE_SUFFIX = ".tar"
_HINT = "write the archive again, without compression"


class ArchivedFile(ContainedFile):
    """A file in an uncompressed tar archive; its place is where its bytes begin, and how many there are."""

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return self.place[1]

    def content(self) -> bytes:
        """The file's bytes.

        Raises:
            OSError: the archive cannot be read, or ends before the file does.
        """
        start, size = self.place
        with self.container.open("rb") as archive:
            archive.seek(start)
            content = archive.read(size)
        if len(content) < size:
            raise OSError(errno.EIO, "its archive ends early", str(self))
        return content


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


def find_archived(path: Path) -> ArchivedFile | None:
    """The file in an archive that a path names, or None."""
    for archive in path.parents:
        if archive.suffix == ARCHIVE_SUFFIX and archive.is_file():
            return _by_path(archive, archive.stat().st_mtime_ns).get(path)
    return None


@lru_cache(maxsize=64)
def _by_path(archive: Path, _changed: int) -> dict[Path, ArchivedFile]:
    return {file: file for file in list_archive(archive)}
