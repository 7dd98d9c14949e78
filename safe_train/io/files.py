"""Files and folders that are complete or absent, and JSON that a disk or a person may have damaged."""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safe_train.errors import InputError

_FILE, _FOLDER, _ABSENT = "a file", "a folder", "no such file"


def file_problem(path: Path) -> str | None:
    """What keeps a path from being a file that can be read, in a few words; None for a regular file.

    A FIFO, a device or a socket is none: whoever reads it waits, or never comes to an end.
    """
    kind = _kind(path)
    return None if kind == _FILE else kind


def folder_problem(path: Path) -> str | None:
    """The same of a folder."""
    kind = _kind(path)
    return None if kind == _FOLDER else "no such folder" if kind == _ABSENT else kind


def is_file_or_folder(path: str | Path) -> bool:
    """Whether there is no :func:`file_problem`, or no :func:`folder_problem`."""
    return _kind(path) in (_FILE, _FOLDER)


def _kind(path: str | Path) -> str:
    """What a path leads to, or why nothing can be read there; never an error, however odd the name is."""
    try:
        mode = (path.stat() if isinstance(path, Path) else os.stat(path)).st_mode  # noqa: PTH116 - a text is faster
    except ValueError:  # a zero byte, or half a character
        return "a name that no file can have"
    except OSError as error:
        absent = error.errno in (errno.ENOENT, errno.ENOTDIR)
        return _ABSENT if absent else f"a path that cannot be followed ({error.strerror})"
    if stat.S_ISREG(mode):
        return _FILE
    return _FOLDER if stat.S_ISDIR(mode) else "a FIFO, a device or a socket"


def json_text(value: Mapping[str, Any]) -> str:
    """The value as indented JSON with a line break at its end."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def split_lines(text: str) -> list[str]:
    """The lines of JSON lines: not those of ``str.splitlines``, which U+2028 and its like end within a text."""
    return text.removesuffix("\n").split("\n") if text else []


def write_text(path: Path, text: str) -> None:
    """Writes beside the path, flushes to disk and renames; makes the folder if it is not there.

    Raises:
        InputError: it cannot be written; nothing is left behind.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_text(text, encoding="utf-8")
            flush(partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(path, "a file that can be written", str(error), "choose another place") from error


def read_object(path: Path, expected: str, hint: str, *, finite: bool = False) -> dict[str, Any]:
    """The JSON object that a file holds.

    Args:
        path: a regular file; a pipe would be waited for.
        expected: what the file is, for the error.
        hint: what can be done about one that is not, for the error.
        finite: whether a number that is not finite is an error, too.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    if problem := file_problem(path):
        raise InputError(path, expected, problem, hint)
    try:
        value = _parse(path.read_text(encoding="utf-8"), finite=finite)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(path, expected, " ".join(str(error).split()), hint) from error
    if not isinstance(value, dict):
        raise InputError(path, expected, f"JSON of another kind ({type(value).__name__})", hint)
    return value


def read_lines(path: Path, *, finite: bool = False) -> list[dict[str, Any] | None]:
    """The JSON objects of a file, one a line, None for a line that holds none; nothing where there is no file.

    With ``finite``, a line with a number that is not finite holds none.

    A last line that has neither a line break nor a whole object was being written in a crash, and is left out.

    Raises:
        InputError: the file cannot be read.
    """
    if file_problem(path):
        return []
    try:
        *whole, last = path.read_bytes().split(b"\n")  # and not at what else Unicode takes for the end of a line
    except OSError as error:
        got = str(error.strerror or error)
        raise InputError(path, "a file that can be read", got, "mend the folder, then run again") from error
    found = [_object(line, finite=finite) for line in whole]
    return [*found, cut] if (cut := _object(last, finite=finite)) is not None else found


def _object(line: bytes, *, finite: bool) -> dict[str, Any] | None:
    try:
        value = _parse(line.decode(), finite=finite)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _parse(text: str, *, finite: bool) -> Any:
    """A JSON value; ValueError for half a character, which cannot be written again."""
    value = json.loads(text, parse_constant=_finite, parse_float=_finite) if finite else json.loads(text)
    if "\\u" in text:
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _finite(written: str) -> float:
    value = float(written)
    if not math.isfinite(value):
        raise ValueError(f"the number {written[:20]}, which is not finite")
    return value


def append_line(path: Path, line: str) -> None:
    """Adds a line at the end of a file.

    A process that is killed meanwhile leaves a part of the line, which a reader must be able to tell from a whole one.

    Raises:
        InputError: it cannot be written; the lines before it stay.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
    except OSError as error:
        got = str(error.strerror or error)
        raise InputError(path, "a file that can be written", got, "make room, or mend the folder") from error


def flush(path: Path) -> None:
    """Waits until a file or the names in a folder are on the disk.

    Raises:
        OSError: the disk does not take them.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """A new folder beside ``target`` that takes its place, and that of an older ``target``, when the block is done.

    Raises:
        InputError: it cannot be written; nothing is left behind, and an older ``target`` stays as it was.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
        staging.mkdir()  # not by tempfile, whose folders are private whatever the umask says
        try:
            yield staging
            _exchange(staging, target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise InputError(target, "a folder that can be written", str(error), "make room or choose another") from error


def _exchange(staging: Path, target: Path) -> None:
    if not target.exists():
        staging.rename(target)
        return
    old = staging.with_name(f"{staging.name}-old")
    target.rename(old)
    try:
        staging.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old)
