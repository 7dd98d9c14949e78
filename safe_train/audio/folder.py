"""Audio files that lists name by an id alone, found in the folders of a data set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from safe_train.audio.formats import AUDIO_SUFFIXES


def index_audio_files(folders: Iterable[Path]) -> dict[str, Path]:
    """The audio files of the folders that exist, by name without suffix.

    Of several files with one name, that of the earlier folder counts, and in a folder the first in the order of
    ``AUDIO_SUFFIXES``. Folders are not searched below.
    """
    files: dict[str, Path] = {}
    for folder in folders:
        for stem, path in _index_folder(folder).items():
            files.setdefault(stem, path)
    return files


def _index_folder(folder: Path) -> dict[str, Path]:
    by_suffix: dict[str, list[Path]] = defaultdict(list)
    if folder.is_dir():
        for path in folder.iterdir():
            by_suffix[path.suffix.lower()].append(path)
    return {path.stem: path for suffix in reversed(AUDIO_SUFFIXES) for path in by_suffix[suffix]}
