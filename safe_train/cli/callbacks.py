"""How a run is watched and stopped: of several processes, one speaks; a signal or a file asks it to end."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from safe_train.cli.progress import display, write_stopping
from safe_train.distributed.launch import find_launch
from safe_train.errors import StoppedError
from safe_train.training.callbacks import RunCallbacks

STOP_FILE_VARIABLE = "SAFE_STOP_FILE"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


class StopRequest:
    """Made by SIGINT, SIGTERM, SIGUSR1 or SIGHUP, or by a file: the run then writes a checkpoint and ends.

    The file is the one that ``SAFE_STOP_FILE`` names; it asks by being there. It reaches processes that a signal does
    not reach alone: srun's signal also hits the process that holds a container's file system, and the container dies.

    Attributes:
        signal: the signal that asked, or None.
        tell: called by the first signal, in its handler; says that it has come.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        name = os.environ.get(STOP_FILE_VARIABLE)
        self._file = Path(name) if name else None
        self.tell: Callable[[], None] = write_stopping if find_launch().is_main else lambda: None

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.signal is not None or (self._file is not None and self._file.exists())

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice: at once
        if self.signal is None:
            self.tell()
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
def watching(stop: StopRequest) -> Iterator[RunCallbacks]:
    """Callbacks that show a run on standard error; in processes but the main one, it only listens to ``stop``."""
    if not find_launch().is_main:
        logging.getLogger().setLevel(logging.WARNING)
        yield RunCallbacks(should_stop=stop)
        return
    with display() as shown:
        stop.tell = shown.stopping
        yield RunCallbacks(stage=shown.stage, step=shown.step, rows=shown.rows, should_stop=stop)
