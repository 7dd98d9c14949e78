"""What a run shows while it works: a bar with its metrics below on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from rich.console import Console, Group
from rich.highlighter import NullHighlighter
from rich.live import Live
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from safe_train.retention import MECHANISMS

_STANDARD_ERROR = 2
_STOPPING = "stopping after this step or batch; a second Ctrl-C does not wait"

_LINES = 10  # about so many lines of steps in a whole run
_REFRESHES = 4  # a second


def write_stopping() -> None:
    """Says that the run stops, in a signal's handler: a stream may be in the middle of a write, or its reader gone."""
    with suppress(OSError):
        os.write(_STANDARD_ERROR, f"\n{_STOPPING}\n".encode())


class Display(Protocol):
    """Shows what an ``RunCallbacks`` is told."""

    def stage(self, words: str) -> None:
        """A new stage begins."""

    def step(self, step: int, total: int, metrics: dict[str, float]) -> None:
        """A step of the training is done."""

    def rows(self, done: int, total: int) -> None:
        """So many rows of the stage are done."""

    def stopping(self) -> None:
        """The run was asked to stop; called by a signal's handler."""


class Lines:
    """For log files, pipes and terminals that cannot move the cursor: a line a stage, and some lines of steps."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def _say(self, words: str) -> None:
        print(f"[{time.perf_counter() - self._start:7.1f} s] {words}", file=sys.stderr, flush=True)

    def stage(self, words: str) -> None:
        """Says it."""
        self._say(words)

    def step(self, step: int, total: int, metrics: dict[str, float]) -> None:
        """Says a tenth of the steps, if they have metrics, and the last."""
        if metrics and (step % max(1, total // _LINES) == 0 or step == total):
            self._say(f"step {step}/{total}: {format_metrics(metrics)}")

    def rows(self, done: int, total: int) -> None:
        """Says nothing: stages are short beside a run."""

    def stopping(self) -> None:
        """Says it."""
        write_stopping()


class Bar:
    """For terminals: stage, bar, count and time left on one line, the metrics on the next."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(None), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, expand=True)
        self._task = self._progress.add_task("", total=None)
        self._metrics, self._note = (Text(no_wrap=True, overflow="ellipsis") for _ in range(2))
        self.shown = Group(self._progress, self._metrics, self._note)

    def stage(self, words: str) -> None:
        """Begins another bar, of a length that is not known yet."""
        self._progress.remove_task(self._task)  # `reset` would keep the length of the last one
        self._task = self._progress.add_task(words, total=None)
        self._metrics.plain = ""

    def step(self, step: int, total: int, metrics: dict[str, float]) -> None:
        """Moves the bar; metrics stay until others come."""
        self.rows(step, total)
        if metrics:
            self._metrics.plain = format_metrics(metrics)

    def rows(self, done: int, total: int) -> None:
        """Moves the bar."""
        self._progress.update(self._task, completed=done, total=total)

    def stopping(self) -> None:
        """Notes it; what the handler wrote itself would be drawn over."""
        self._note.plain = _STOPPING


@contextmanager
def display() -> Iterator[Display]:
    """The display that fits standard error. Log lines and prints inside the block stand above a bar, whole."""
    console = Console(stderr=True)
    if not console.is_terminal or console.is_dumb_terminal:
        yield Lines()
        return
    bar = Bar(console)
    with Live(bar.shown, console=console, transient=True, refresh_per_second=_REFRESHES), _logging_to(console):
        yield bar


@contextmanager
def _logging_to(console: Console) -> Iterator[None]:
    """Log lines go through the console: a handler that writes to the terminal itself would write into the bar."""
    root = logging.getLogger()
    before = root.handlers[:]
    plain = RichHandler(
        console=console, show_time=False, show_level=False, show_path=False, highlighter=NullHighlighter()
    )
    root.handlers = [plain]
    try:
        yield
    finally:
        root.handlers = before


def format_metrics(metrics: dict[str, float]) -> str:
    """The most telling ones, in one line."""
    shown = [m.key for mechanism in MECHANISMS.values() for m in mechanism.shown_metrics if m.in_progress]
    return ", ".join(f"{name} {metrics[name]:.4g}" for name in ("audio_loss", *shown) if name in metrics)
