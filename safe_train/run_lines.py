"""The JSON lines of a run, one a step, of which a crash may cut the last short."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safe_train.files import split_lines, write_text

METRICS_LINES = "metrics.jsonl"
EVALUATION_LINES = "evaluations.jsonl"


def keep_up_to(path: Path, step: int) -> None:
    """Drops the lines of later steps, and what is no whole line.

    Raises:
        InputError: the file cannot be written; it stays as it was.
    """
    if path.is_file():
        kept = [line for line in _lines(path) if _step_of(line) <= step]
        write_text(path, "".join(f"{line}\n" for line in kept))


def has_step(path: Path, step: int) -> bool:
    """Whether there is a line of this step."""
    return any(_step_of(line) == step for line in _lines(path))


def last_values(path: Path) -> dict[str, Any]:
    """What the last line says beside its step; empty without one."""
    values = [json.loads(line) for line in _lines(path)[-1:]]
    return {name: value for line in values for name, value in line.items() if name != "step"}


def _lines(path: Path) -> list[str]:
    return split_lines(path.read_text(encoding="utf-8")) if path.is_file() else []


def _step_of(line: str) -> int:
    """Step of a line; one that was cut short counts as later than any."""
    try:
        return int(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError):
        return 2**63
