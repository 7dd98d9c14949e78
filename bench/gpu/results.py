"""The file that holds what all steps found, replaced as a whole after each of them."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.gpu.sources import ROOT

FILE = "results.json"
_VERSION = 1

State = str
"""passed, failed, timed out or left out."""


class OtherResultsError(ValueError):
    """The folder holds what must not be mixed with what is to come."""


class Results:
    """Results of steps by name.

    Args:
        folder: where the file is; made if it is not there.
        rehearsal: whether the results are a rehearsal's.

    Raises:
        OtherResultsError: the file is a rehearsal's and these are not, or the other way round.
    """

    def __init__(self, folder: Path, *, rehearsal: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / FILE
        self.rehearsal = rehearsal
        self.steps: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            document = read_results(folder)
            if document["rehearsal"] != rehearsal:
                kind = "a rehearsal" if document["rehearsal"] else "a GPU"
                wanted = "a rehearsal" if rehearsal else "a GPU"
                raise OtherResultsError(
                    f"{self.path}: expected results of {wanted}, got those of {kind}; name another folder"
                )
            self.steps = document["steps"]

    def put(self, name: str, result: Mapping[str, Any]) -> None:
        """Adds or replaces a step's result: a reader sees the old file or the new one, never a part."""
        self.steps[name] = dict(result)
        document = {"version": _VERSION, "rehearsal": self.rehearsal, "steps": self.steps}
        partial = self.path.with_name(f".{FILE}.partial")
        with partial.open("w", encoding="utf-8") as file:
            file.write(without_places(json.dumps(document, indent=1, default=str)))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.path)

    def is_done(self, name: str, digest: str) -> bool:
        """Whether a step has passed with the sources of this digest."""
        found = self.steps.get(name)
        return found is not None and found["state"] == "passed" and found["digest"] == digest


def without_places(text: str) -> str:
    """What programs printed, with names in place of this machine's folders: results are published."""
    places = {
        sys.prefix: "<environment>",
        sys.base_prefix: "<python>",
        str(ROOT): "<checkout>",
        str(Path.home()): "<home>",
        tempfile.gettempdir(): "<temporary>",
    }
    for place in sorted(places, key=len, reverse=True):  # one may lie in another
        if place not in ("/", "/usr"):  # which are everybody's
            text = re.sub(rf"{re.escape(place)}(?![\w.-])", places[place], text)
    return text


def read_results(folder: Path) -> dict[str, Any]:
    """The whole document.

    Raises:
        OtherResultsError: the file is not one of these.
    """
    path = folder / FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OtherResultsError(f"{path}: expected what python -m bench.gpu_run writes, got: {error}") from error
    if not isinstance(document, dict) or document.get("version") != _VERSION:
        raise OtherResultsError(f"{path}: expected results of version {_VERSION}; make them again")
    return document
