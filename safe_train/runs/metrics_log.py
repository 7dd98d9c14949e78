"""JSON lines of a run, one per step; a crash may leave the last one incomplete."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from safe_train.io.files import read_lines, write_text

logger = logging.getLogger(__name__)

_STEP = "step"


def keep_up_to(path: Path, step: int) -> None:
    """Drops the lines of later steps; damaged lines go with them, and are logged as a warning.

    Raises:
        InputError: the file cannot be read or written; it stays as it was.
    """
    if not path.is_file():
        return
    lines = read_lines(path)
    damaged = [str(number) for number, line in enumerate(lines, start=1) if _step_of(line) is None]
    if damaged:
        logger.warning("%s: expected JSON with a step a line; dropped: line %s", path, ", ".join(damaged))
    kept = [line for line in lines if (found := _step_of(line)) is not None and found <= step]
    write_text(path, "".join(f"{json.dumps(line)}\n" for line in kept))


def has_step(path: Path, step: int) -> bool:
    """Whether there is a line of this step."""
    return any(_step_of(line) == step for line in read_lines(path))


def last_values(path: Path) -> dict[str, Any]:
    """The values of the last line, without its step; empty if there is none."""
    return {name: value for line in read_lines(path)[-1:] for name, value in (line or {}).items() if name != _STEP}


def _step_of(line: dict[str, Any] | None) -> int | None:
    """Step of a line, None if it has none."""
    step = (line or {}).get(_STEP)
    return step if isinstance(step, int) and not isinstance(step, bool) else None
