"""Files of rows, opened before hours of work depend on them: one that is damaged is told at once, and with its row."""

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
"""Training rows of each kind whose files are looked at; of more, a run would wait longer than it might lose."""

_AT_ONCE = 256
_HINT = "`safe data check` names every such file"


@dataclass(frozen=True)
class FileCheck:
    """A file, the first row that names it, and how it is read.

    Attributes:
        path: the file.
        row_id: of the row.
        read: reads it, or what is to be read of it.
    """

    path: Path
    row_id: str
    read: Callable[[Path], object]

    def __call__(self) -> None:
        """Reads it.

        Raises:
            InputError: it cannot be read; the row is named, too.
        """
        try:
            self.read(self.path)
        except InputError as error:
            where, hint = f"{error.where} (row {shortened(self.row_id)})", f"{error.hint}; {_HINT}"
            raise InputError(where, error.expected, error.got, hint) from error


def file_checks(
    evaluated: Iterable[Example], trained: Iterable[Example], encoders: Sequence[AudioEncoder]
) -> list[FileCheck]:
    """Each file of the rows once: of rows to evaluate on as far as it is heard or seen, of others by its header.

    Args:
        evaluated: rows to evaluate on.
        trained: rows to train on.
        encoders: those that will hear the clips.
    """
    hear = partial(_hear, windows=[(encoder.sampling_rate, encoder.window) for encoder in encoders])
    found = {path: FileCheck(path, row_id, read) for path, row_id, read in _files(evaluated, hear, load_image)}
    for path, row_id, read in _files(trained, read_audio_header, identify_image):
        found.setdefault(path, FileCheck(path, row_id, read))
    return list(found.values())


def run_checks(
    checks: Sequence[FileCheck], processes: Processes, num_workers: int, between: Callable[[int, int], None]
) -> None:
    """Runs them, shared among all processes and so many threads in each.

    Args:
        checks: what to run; the same in every process.
        processes: those of the run.
        num_workers: threads; 0 for none.
        between: called by all processes together, with how many are done and how many there are; may end it.

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
    """Path, row and reader of each file that a row names, in the rows' order."""
    for row in rows:
        clip = row.audio.path if isinstance(row.audio, Amplified) else row.audio
        if isinstance(clip, Path):
            yield clip, row.row_id, of_audio
        if row.image is not None:
            yield row.image, row.row_id, of_image


def _hear(path: Path, windows: Sequence[tuple[int, int]]) -> None:
    for rate, window in windows:
        load_waveform(path, rate, window)
