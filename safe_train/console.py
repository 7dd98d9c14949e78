"""How a run shows itself: a progress bar on a terminal, plain lines in a log file; of several processes, one speaks."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from safe_train.errors import StoppedError
from safe_train.launch import find_launch
from safe_train.run import Observer

STOP_FILE_VARIABLE = "SAFE_STOP_FILE"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)

_STANDARD_ERROR = 2
_STOPPING = b"\nstopping after this step or batch; a second Ctrl-C does not wait\n"
_SHOWN = ("audio_loss", "kl", "ewc", "null_space_removed")


class StopRequest:
    """Made by SIGINT, SIGTERM, SIGUSR1 or SIGHUP, or by a file: the run then writes a checkpoint and ends.

    The file is the one that ``SAFE_STOP_FILE`` names; it asks by being there. It reaches processes that a signal does
    not reach alone: srun's signal also hits the process that holds a container's file system, and the container dies.

    Attributes:
        signal: the signal that asked, or None.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        name = os.environ.get(STOP_FILE_VARIABLE)
        self._file = Path(name) if name else None
        self._tells = find_launch().is_main

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.signal is not None or (self._file is not None and self._file.exists())

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice: at once
        if self.signal is None and self._tells:
            with suppress(OSError):  # what reads it may be gone; and no stream, which may be in the middle of a write
                os.write(_STANDARD_ERROR, _STOPPING)
        self.signal = signal.Signals(number)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handles the signals inside the block; an error by which the block stops learns which one asked."""
        ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set()  # by nohup
        previous = {number: signal.signal(number, self._handle) for number in SIGNALS if number not in ignored}
        try:
            yield
        except StoppedError as error:
            error.signal = self.signal
            raise
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


@contextmanager
def watching(stop: StopRequest) -> Iterator[Observer]:
    """An observer that writes to standard error; in all processes but the main one, it only listens to ``stop``."""
    if not find_launch().is_main:
        logging.getLogger().setLevel(logging.WARNING)
        yield Observer(should_stop=stop)
        return
    if sys.stderr.isatty():
        with _bar() as (progress, task):
            yield Observer(
                stage=lambda words: progress.update(task, description=words),
                step=lambda step, total, metrics: _advance(progress, task, step, total, metrics),
                should_stop=stop,
            )
        return
    start = time.perf_counter()

    def say(words: str) -> None:
        print(f"[{time.perf_counter() - start:7.1f} s] {words}", file=sys.stderr, flush=True)

    def say_step(step: int, total: int, metrics: dict[str, float]) -> None:
        if metrics and (step % max(1, total // 10) == 0 or step == total):
            say(f"step {step}/{total}: {_words(metrics)}")

    yield Observer(stage=say, step=say_step, should_stop=stop)


@contextmanager
def _bar() -> Iterator[tuple[Progress, TaskID]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[metrics]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield progress, progress.add_task("loading", total=None, metrics="")


def _advance(progress: Progress, task: TaskID, step: int, total: int, metrics: dict[str, float]) -> None:
    progress.update(task, completed=step, total=total)
    if metrics:
        progress.update(task, metrics=_words(metrics))


def _words(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {metrics[name]:.4g}" for name in _SHOWN if name in metrics)
