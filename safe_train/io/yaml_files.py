"""YAML files that a person writes; JSON is YAML, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from safe_train.errors import InputError


def read_yaml_mapping(path: Path, of_what: str) -> dict[Any, Any]:
    """The mapping that a YAML or JSON file holds.

    Args:
        path: the file.
        of_what: what it maps, for the error, such as ``"settings"``.

    Raises:
        InputError: the file cannot be read or holds something else.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        detail = " ".join(str(error).split())
        raise InputError(path, "a readable YAML or JSON file", detail, "correct the file or the path") from error
    if not isinstance(values, dict):
        raise InputError(path, f"a mapping of {of_what}", type(values).__name__, "write key: value lines")
    return values
