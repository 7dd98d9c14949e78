"""Back from the text of a path to the file, where it lies inside of another."""

from __future__ import annotations

from pathlib import Path

from safe_train.io.archives import find_archived
from safe_train.io.tables import find_cell


def find_file(path: Path) -> Path:
    """The path, or the file that it names in an archive or a data set."""
    return find_archived(path) or find_cell(path) or path
