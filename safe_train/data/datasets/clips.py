"""Separates the clips of a list whose audio file exists, and reports the others."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from safe_train.data.datasets.records import AudioRecord
from safe_train.errors import InputError
from safe_train.io.files import file_problem
from safe_train.io.messages import one_line, shortened

logger = logging.getLogger(__name__)

_NAMES_SHOWN = 5


@dataclass(frozen=True)
class MissingClips:
    """The clips of a split whose audio file is missing.

    Attributes:
        where: the file that lists the clips.
        clip_ids: the missing ones, in the file's order.
        num_listed: how many clips the file lists.
    """

    where: Path
    clip_ids: tuple[str, ...]
    num_listed: int

    def __str__(self) -> str:
        """One line with the count and the first names."""
        shown = ", ".join(one_line(shortened(name)) for name in self.clip_ids[:_NAMES_SHOWN])
        more = len(self.clip_ids) - _NAMES_SHOWN
        names = f"{shown} and {more} more" if more > 0 else shown
        counts = f"{len(self.clip_ids)} of {self.num_listed} clips have no audio file"
        return f"MissingClips: {self.where}: {counts}: {names}"


def separate_missing(records: Iterable[AudioRecord], where: Path) -> tuple[list[AudioRecord], MissingClips]:
    """The records whose audio file is there, and the report of the others; ``where`` is the file that lists them."""
    present: list[AudioRecord] = []
    missing: list[str] = []
    for record in records:
        if file_problem(record.audio_path) is None:
            present.append(record)
        else:
            missing.append(record.clip_id)
    return present, MissingClips(where, tuple(missing), len(present) + len(missing))


def require_clips(records: list[AudioRecord], missing: MissingClips) -> list[AudioRecord]:
    """The records, at least one; warns, with count and names, of the missing ones.

    Raises:
        InputError: no clip has its audio.
    """
    if not records:
        got = f"none of {missing.num_listed}, first {shortened(missing.clip_ids[0])}"
        raise InputError(missing.where, "audio files for its clips", got, "put the audio where the paths say")
    if missing.clip_ids:
        logger.warning("%s", missing)
    return records
