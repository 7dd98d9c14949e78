"""Opens the files of the examples before training: a damaged one is reported at once, with its example."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from safe_train.audio.input import Amplified
from safe_train.audio.waveform import SHORTEST_SECONDS, load_waveform, read_audio_header
from safe_train.data.cache.features import ordered_map
from safe_train.data.example import Example
from safe_train.data.image import identify_image, load_image
from safe_train.distributed.processes import Processes
from safe_train.errors import InputError
from safe_train.io.messages import shortened
from safe_train.model.audio.encoder import AudioEncoder

logger = logging.getLogger(__name__)

MOST_TRAINED = 10_000
"""Training examples of each kind whose files are checked; more would take longer than the check could save."""

_AT_ONCE = 256
_HINT = "`safe data check` names every such file"


@dataclass(frozen=True)
class FileCheck:
    """A file, the first example that names it, and how it is read.

    Attributes:
        path: the file.
        row_id: id of the example.
        read: reads the file, or the part that is needed.
    """

    path: Path
    row_id: str
    read: Callable[[Path], float | None]

    def __call__(self) -> float | None:
        """Reads it; returns the seconds of a clip, if it tells them.

        Raises:
            InputError: it cannot be read; the error names the example.
        """
        try:
            return self.read(self.path)
        except InputError as error:
            where, hint = f"{error.where} (row {shortened(self.row_id)})", f"{error.hint}; {_HINT}"
            raise InputError(where, error.expected, error.got, hint) from error


@dataclass(frozen=True)
class CutClips:
    """How many clips are longer than what is heard of them.

    Attributes:
        clips: those that were looked at and tell their length.
        cut: those of them that are longer, by at least the length that would give a feature.
        heard_seconds: what is heard, of the encoder that hears the least.
        longest_seconds: length of the longest clip; 0 without any.
    """

    clips: int = 0
    cut: int = 0
    heard_seconds: float = math.inf
    longest_seconds: float = 0.0

    def warn(self) -> None:
        """Logs a warning, if there are any."""
        if self.cut:
            logger.warning(
                "%d of %d clips are longer than the %.4g s that are heard, the longest has %.4g s; what comes later is "
                "not heard: raise model.audio_seconds, or model.audio_windows of an encoder with a window of its own",
                self.cut,
                self.clips,
                self.heard_seconds,
                self.longest_seconds,
            )


def file_checks(
    evaluated: Iterable[Example], trained: Iterable[Example], encoders: Sequence[AudioEncoder]
) -> list[FileCheck]:
    """Checks of each file, once: those to evaluate on are read as far as the model uses them, others by their header.

    Args:
        evaluated: examples to evaluate on.
        trained: examples to train on.
        encoders: audio encoders that get the clips.
    """
    hear = partial(_hear, windows=[(encoder.sampling_rate, encoder.window) for encoder in encoders])
    found = {path: FileCheck(path, row_id, read) for path, row_id, read in _files(evaluated, hear, _look)}
    for path, row_id, read in _files(trained, read_audio_header, identify_image):
        found.setdefault(path, FileCheck(path, row_id, read))
    return list(found.values())


def run_checks(
    checks: Sequence[FileCheck],
    processes: Processes,
    num_workers: int,
    between: Callable[[int, int], None],
    heard_seconds: float = math.inf,
) -> CutClips:
    """Runs the checks, distributed over all processes and over threads in each.

    Args:
        checks: what to run; the same in every process.
        processes: those of the run.
        num_workers: threads; 0 for none.
        between: called by all processes together, with the number done and the total; may raise to stop.
        heard_seconds: what is heard of a clip.

    Returns:
        How many clips are longer.

    Raises:
        InputError: a file cannot be read.
    """
    call_each, lengths = ordered_map(num_workers), []
    for start in range(0, len(checks), _AT_ONCE):
        part = checks[start : start + _AT_ONCE]
        with processes.raise_on_any_rank():
            lengths += [each for each in call_each(FileCheck.__call__, processes.shard(part)) if each is not None]
        between(start + len(part), len(checks))
    cut = sum(length - heard_seconds >= SHORTEST_SECONDS for length in lengths)
    found = processes.gather([len(lengths), cut, max(lengths, default=0.0)])
    return CutClips(
        sum(count for count, _, _ in found), sum(count for _, count, _ in found),
        heard_seconds, max(longest for _, _, longest in found),
    )  # fmt: skip


def heard_seconds(encoders: Sequence[AudioEncoder]) -> float:
    """What is heard of a clip, of the encoder that hears the least."""
    return min((encoder.window / encoder.sampling_rate for encoder in encoders), default=math.inf)


def _files(
    rows: Iterable[Example], of_audio: Callable[[Path], float | None], of_image: Callable[[Path], None]
) -> Iterable[tuple[Path, str, Callable[[Path], float | None]]]:
    """Path, example id and reader of each file that an example names, in the examples' order."""
    for row in rows:
        clip = row.audio.path if isinstance(row.audio, Amplified) else row.audio
        if isinstance(clip, Path):
            yield clip, row.row_id, of_audio
        if row.image is not None:
            yield row.image, row.row_id, of_image


def _hear(path: Path, windows: Sequence[tuple[int, int]]) -> float | None:
    for rate, window in windows:
        load_waveform(path, rate, window)
    return read_audio_header(path)


def _look(path: Path) -> None:
    load_image(path)
