"""Files of unpacked packages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safe_train.errors import InputError
from safe_train.io.files import file_problem, folder_problem

_HINT = "remove the package's folder, and it is unpacked again"


def require_file(path: Path, package: str) -> Path:
    """The path, if it is a file.

    Raises:
        InputError: it is not: the package has another layout.
    """
    if problem := file_problem(path):
        raise InputError(path, f"a file of {package}", problem, _HINT)
    return path


def require_folder(path: Path, package: str) -> Path:
    """The path, if it is a folder.

    Raises:
        InputError: it is not: the package has another layout.
    """
    if problem := folder_problem(path):
        raise InputError(path, f"a folder of {package}", problem, _HINT)
    return path


def read_json(path: Path, package: str) -> Any:
    """What a JSON file holds.

    Raises:
        InputError: as :func:`require_file`.
    """
    return json.loads(require_file(path, package).read_text(encoding="utf-8"))


def read_lines(path: Path, package: str) -> list[str]:
    """The lines of a text file.

    Raises:
        InputError: as :func:`require_file`.
    """
    return require_file(path, package).read_text(encoding="utf-8").splitlines()
