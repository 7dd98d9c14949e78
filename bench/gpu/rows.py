"""What a step finds, a line of JSON at a time, so that nothing is lost where the step is killed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

VARIABLE = "SAFE_GPU_ROWS"
"""The file into which a step writes its rows."""

WARNINGS = "warnings"
"""Name of the row that holds the warnings of all tests, and is no test's."""

Outcome = Literal["passed", "failed", "skipped"]
Row = dict[str, Any]


class RowWriter:
    """Appends rows to a file, each at once.

    Args:
        path: the file; by default the one that the environment names, or none.
    """

    def __init__(self, path: Path | None = None) -> None:
        named = os.environ.get(VARIABLE)
        self.path = path or (Path(named) if named else None)

    def add(
        self,
        name: str,
        outcome: Outcome,
        figures: Mapping[str, Any] = MappingProxyType({}),
        *,
        seconds: float = 0.0,
        message: str | None = None,
    ) -> None:
        """Writes one row.

        Args:
            name: what was done.
            outcome: how it ended.
            figures: what was measured.
            seconds: how long it took.
            message: why it failed or was skipped.
        """
        row: Row = {"name": name, "outcome": outcome, "seconds": round(seconds, 3), "message": message}
        row["figures"] = dict(figures)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, default=str) + "\n")


def read_rows(path: Path) -> list[Row]:
    """The rows of a file; a last line that was cut off is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]  # what follows the last line's end is not whole
