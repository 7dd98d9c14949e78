"""Finding an entry of a registry by name, with an error that names the nearest one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

_Entry = TypeVar("_Entry")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most similar to ``name``, case ignored, or None if none is similar.

    Similarity is the Ratcliff-Obershelp ratio of ``difflib`` with its default threshold, 0.6.
    """
    by_folded = {candidate.casefold(): candidate for candidate in known}
    matches = difflib.get_close_matches(name.casefold(), by_folded, n=1)
    return by_folded[matches[0]] if matches else None


def look_up(kind: str, name: str, registry: Mapping[str, _Entry]) -> _Entry:
    """The registry's entry of that name.

    Args:
        kind: what the registry holds, for the error message, for instance ``"retention variant"``.
        name: the entry's name, exactly as registered.
        registry: the entries by name.

    Raises:
        ValueError: no entry has this name. The message lists the known names and, if one is similar, the nearest.
    """
    if name in registry:
        return registry[name]
    suggestion = nearest(name, registry)
    hint = f"; did you mean {suggestion!r}?" if suggestion else ""
    raise ValueError(f"unknown {kind} {name!r}, known are {', '.join(registry)}{hint}")
