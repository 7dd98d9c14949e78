"""The contents of an image as sorted lines ``path type mode sha256``, and the difference between two such lists.

    apptainer exec --fakeroot safe.sif python3 - / < containers/manifest.py

Left out is what Apptainer itself writes into an image (its labels carry the time of the build) or mounts over it.
This file needs the standard library alone: it is run inside the image, with the image's Python.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

LEFT_OUT = frozenset(
    f"/{name}"
    for name in (
        # Apptainer's own files
        ".singularity.d", ".exec", ".run", ".shell", ".test", ".post.script", ".test.script",
        "environment", "singularity",
        # mounted in a container, or empty
        "dev", "proc", "sys", "tmp", "run", "home", "root", "mnt", "media", "srv", "var/tmp",
        "etc/passwd", "etc/group", "etc/hosts", "etc/hostname", "etc/localtime", "etc/resolv.conf", "etc/mtab",
        "etc/slurm", "etc/munge",
        # the manifest itself
        "opt/safe/manifest.txt",
    )
)  # fmt: skip
"""Paths, with everything below them, that no manifest holds."""

_TYPES = (
    (stat.S_ISREG, "file"),
    (stat.S_ISDIR, "directory"),
    (stat.S_ISLNK, "link"),
    (stat.S_ISFIFO, "fifo"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
)
_CHUNK = 1 << 20


def manifest_lines(root: Path) -> Iterator[str]:
    """One line for each path below ``root``, in the order of the paths; the digest of what has no content is ``-``.

    The digest of a symbolic link is that of its target's name. Other file systems below ``root`` are entered: what is
    mounted in a container is left out by name.

    Raises:
        OSError: something cannot be read.
    """
    for path in _walk(root, root):
        status = path.lstat()
        kind = next(name for is_kind, name in _TYPES if is_kind(status.st_mode))
        inside = path.relative_to(root).as_posix()
        quoted = inside.encode("unicode_escape").decode().replace(" ", "\\x20")
        yield f"/{quoted} {kind} {stat.S_IMODE(status.st_mode):04o} {_digest(path, kind)}"


def differences(first: str, second: str) -> list[str]:
    """Lines that only one of two manifests has, with ``-`` or ``+`` before them, by path."""
    old, new = set(first.splitlines()), set(second.splitlines())
    marked = [(line, "-") for line in old - new] + [(line, "+") for line in new - old]
    return [f"{mark}{line}" for line, mark in sorted(marked)]


def _walk(folder: Path, root: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if f"/{path.relative_to(root).as_posix()}" in LEFT_OUT:
            continue
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path, root)


def _digest(path: Path, kind: str) -> str:
    if kind == "link":
        return hashlib.sha256(os.fsencode(path.readlink())).hexdigest()
    if kind != "file":
        return "-"
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


if __name__ == "__main__":
    for line in manifest_lines(Path(sys.argv[1])):
        print(line)
