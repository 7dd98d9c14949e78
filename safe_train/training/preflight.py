"""Opens the files of the examples before training: a damaged one is reported at once, with its example."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from safe_train.audio.input import Amplified
from safe_train.audio.waveform import load_waveform, read_audio_header
from safe_train.data.cache.features import ordered_map
from safe_train.data.example import Example
from safe_train.data.image import identify_image, load_image
from safe_train.distributed.processes import Processes
from safe_train.errors import InputError
from safe_train.io.messages import shortened
from safe_train.model.audio.encoder import AudioEncoder

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
    read: Callable[[Path], object]

    def __call__(self) -> None:
        """Reads it.

        Raises:
            InputError: it cannot be read; the error names the example.
        """
        try:
            self.read(self.path)
        except InputError as error:
            where, hint = f"{error.where} (row {shortened(self.row_id)})", f"{error.hint}; {_HINT}"
            raise InputError(where, error.expected, error.got, hint) from error


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
    found = {path: FileCheck(path, row_id, read) for path, row_id, read in _files(evaluated, hear, load_image)}
    for path, row_id, read in _files(trained, read_audio_header, identify_image):
        found.setdefault(path, FileCheck(path, row_id, read))
    return list(found.values())


def run_checks(
    checks: Sequence[FileCheck], processes: Processes, num_workers: int, between: Callable[[int, int], None]
) -> None:
    """Runs the checks, distributed over all processes and over threads in each.

    Args:
        checks: what to run; the same in every process.
        processes: those of the run.
        num_workers: threads; 0 for none.
        between: called by all processes together, with the number done and the total; may raise to stop.

    Raises:
        InputError: a file cannot be read.
    """
    call_each = ordered_map(num_workers)
    for start in range(0, len(checks), _AT_ONCE):
        part = checks[start : start + _AT_ONCE]
        with processes.raise_on_any_rank():
            for _ in call_each(FileCheck.__call__, processes.shard(part)):
                pass
        between(start + len(part), len(checks))


def _files(
    rows: Iterable[Example], of_audio: Callable[[Path], object], of_image: Callable[[Path], object]
) -> Iterable[tuple[Path, str, Callable[[Path], object]]]:
    """Path, example id and reader of each file that an example names, in the examples' order."""
    for row in rows:
        clip = row.audio.path if isinstance(row.audio, Amplified) else row.audio
        if isinstance(clip, Path):
            yield clip, row.row_id, of_audio
        if row.image is not None:
            yield row.image, row.row_id, of_image


def _hear(path: Path, windows: Sequence[tuple[int, int]]) -> None:
    for rate, window in windows:
        load_waveform(path, rate, window)
