"""Folders under SAFE's cache that are made once: named by what they are made of, complete or absent."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from safe_train.io.cache import cache_root


def real_folder() -> Path:
    """Where models, data and packages lie: ``$SAFE_CACHE/real``."""
    return cache_root() / "real"


def made_folder(name: str, key: str, make: Callable[[Path], object]) -> Path:
    """``$SAFE_CACHE/real/<name>-<key>``.

    Args:
        name: what it holds.
        key: a digest of all that it depends on.
        make: fills an empty folder; called where there is none with that key.
    """
    folder = real_folder() / f"{name}-{key}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as scratch:
            content = Path(scratch) / name
            content.mkdir()
            make(content)
            content.rename(folder)
    return folder


def link(name: str, folder: Path) -> Path:
    """Makes ``$SAFE_CACHE/real/<name>``, which the model configuration ``real`` names, a link to a made folder."""
    path = real_folder() / name
    new = path.with_name(f".{name}-new")
    new.unlink(missing_ok=True)
    new.symlink_to(folder.name)
    new.replace(path)
    return path
