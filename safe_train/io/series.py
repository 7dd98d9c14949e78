"""Numbered files that are one list: ``train-000000.tar``, or ``train-00000-of-00004.parquet``."""

from __future__ import annotations

import re
from pathlib import Path

from safe_train.errors import InputError

_NUMBERED = re.compile(r"(?P<series>.+?)-(?P<number>\d+)(?:-of-(?P<count>\d+))?")


def find_series(folder: Path, stem: str, suffix: str) -> list[Path]:
    """``<stem><suffix>``, or else the numbered files of this name in the order of their numbers; empty without any."""
    if (alone := folder / f"{stem}{suffix}").is_file():
        return [alone]
    escaped = re.sub(r"([*?[])", r"[\1]", stem)
    numbered = []
    for path in folder.glob(f"{escaped}-*{suffix}"):
        match = _NUMBERED.fullmatch(path.name.removesuffix(suffix))
        if match and match["series"] == stem:
            numbered.append((int(match["number"]), path))
    return [path for _, path in sorted(numbered)]


def whole_series(first: Path) -> list[Path]:
    """The files that are numbered as this one is, all of them.

    Raises:
        InputError: a name says that there are more.
    """
    match = _NUMBERED.fullmatch(first.stem)
    found = find_series(first.parent, match["series"], first.suffix) if match else [first]
    matches = [match for path in found if (match := _NUMBERED.fullmatch(path.stem)) and match["count"]]
    if matches:
        expected = int(matches[0]["count"])
        if absent := sorted(set(range(expected)) - {int(match["number"]) for match in matches}):
            raise InputError(first, f"{expected} files, as its name says", f"none with number {absent[0]}", "fetch it")
    return found
