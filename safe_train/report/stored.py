"""Files of a run, which may come from someone else: regular ones, in UTF-8, and JSON that can be drawn and added up."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from safe_train.errors import InputError
from safe_train.files import file_problem, split_lines


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object of a file.

    Raises:
        InputError: it is no regular file, no JSON, nested too deep, has a number that is not finite, or no object.
    """
    way_out = "name the folder of a finished run"
    content = parsed(_text(path, way_out), path, way_out)
    if not isinstance(content, dict):
        raise InputError(path, "a JSON object", f"{path.name}: {type(content).__name__}", "restore the file")
    return content


def read_lines(path: Path, way_out: str) -> list[str]:
    """The lines of a file of JSON lines.

    Raises:
        InputError: it is no regular file, or not UTF-8.
    """
    return split_lines(_text(path, way_out))


def parsed(text: str, path: Path, way_out: str) -> Any:
    """A JSON value of a run's file.

    Raises:
        InputError: it is no JSON, nested too deep, or has a number that is not finite or a lone surrogate.
    """
    try:
        value = json.loads(text, parse_constant=_finite, parse_float=_finite)
        if "\\u" in text:  # half a character cannot be written into the page
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        got = f"{path.name}: {' '.join(str(error).split())}"
        raise InputError(path, "a JSON file of a run", got, way_out) from error
    return value


def _text(path: Path, way_out: str) -> str:
    if problem := file_problem(path):
        raise InputError(path, "a file of a run", f"{path.name}: {problem}", way_out)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, "a file of a run", f"{path.name}: {' '.join(str(error).split())}", way_out) from error


def _finite(written: str) -> float:
    value = float(written)
    if not math.isfinite(value):
        raise ValueError(f"the number {written[:20]}, which is not finite")
    return value
