"""Captioned clips as every reader gives them, and the report of those whose audio file is not there."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from safe_train.errors import InputError
from safe_train.io.files import file_problem
from safe_train.io.messages import one_line, shortened

logger = logging.getLogger(__name__)

_NAMES_SHOWN = 5


@dataclass(frozen=True)
class AudioRecord:
    """A clip with what can be said about it.

    Attributes:
        clip_id: ``<youtube_id>_<start_time>``, or the manifest's id where it names no YouTube clip. Examples that ask
            different questions about one clip share it.
        audio_path: the audio file, which exists.
        captions: all reference captions, or reference answers if there is a question; at least one.
        question: what is asked about the clip, or None for captioning.
        image_path: an image that belongs to the clip, which exists, or None.
    """

    clip_id: str
    audio_path: Path
    captions: tuple[str, ...]
    question: str | None
    image_path: Path | None


@dataclass(frozen=True)
class MissingClips:
    """The clips of a split whose audio file is not there.

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


def separate_missing(examples: Iterable[AudioRecord], where: Path) -> tuple[list[AudioRecord], MissingClips]:
    """The examples whose audio file is there, and the report of the others; ``where`` is the file that lists them."""
    present: list[AudioRecord] = []
    missing: list[str] = []
    for example in examples:
        if file_problem(example.audio_path) is None:
            present.append(example)
        else:
            missing.append(example.clip_id)
    return present, MissingClips(where, tuple(missing), len(present) + len(missing))


def require_clips(examples: list[AudioRecord], missing: MissingClips) -> list[AudioRecord]:
    """The examples, at least one; warns, with count and names, of the missing ones.

    Raises:
        InputError: no clip has its audio.
    """
    if not examples:
        got = f"none of {missing.num_listed}, first {shortened(missing.clip_ids[0])}"
        raise InputError(missing.where, "audio files for its clips", got, "put the audio where the paths say")
    if missing.clip_ids:
        logger.warning("%s", missing)
    return examples
