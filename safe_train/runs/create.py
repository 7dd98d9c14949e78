"""Creates a run's folder, and removes one that has no checkpoint."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from safe_train.errors import InputError
from safe_train.runs.checkpoint import list_checkpoints
from safe_train.runs.layout import RunFolder


def require_writable(root: Path) -> None:
    """Finds out before the work whether its results can be written.

    Raises:
        InputError: they cannot.
    """
    existing = next(path for path in (root, *root.absolute().parents) if os.path.lexists(path))
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        got = "no permission to write" if existing.is_dir() else _kind_of(existing)
        raise InputError(existing, "a folder that can be written", got, "choose another --output-root")


def _kind_of(path: Path) -> str:
    """What is there in place of a folder, in words."""
    return "a file" if path.exists() else f"a link to {path.readlink()}, which is not there"


def new_folder(root: Path, label: str) -> Path:
    """Makes ``<timestamp>_<label>``; of two runs in one second, the second waits for the next.

    Raises:
        InputError: it cannot be made.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)  # not of a link that leads nowhere, whose name is there already
        while True:
            folder = root / f"{datetime.now():%Y%m%d-%H%M%S}_{label}"
            with suppress(FileExistsError):
                folder.mkdir()
                break
            time.sleep(0.2)
        RunFolder(folder).checkpoints.mkdir()
    except OSError as error:
        got, hint = str(error.strerror), "choose another --output-root"
        raise InputError(root, "a folder that can be written", got, hint) from error
    return folder


@contextmanager
def removed_without_checkpoint(folder: Path) -> Iterator[None]:
    """Bad input that shows before the first checkpoint leaves no run folder; later the run can be resumed."""
    try:
        yield
    except InputError:
        if not list_checkpoints(RunFolder(folder).checkpoints):
            shutil.rmtree(folder, ignore_errors=True)  # it may be what is gone
        raise
