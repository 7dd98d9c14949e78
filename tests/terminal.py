"""A program in a real pseudo-terminal, and what a terminal emulator shows of it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyte

PATIENCE = 60.0
PAUSE = "import os\ndef pause():\n    assert os.read({fd}, 1)\n"
"""For programs: a function that waits until the test calls ``Terminal.go_on``."""


class Terminal:
    """The screen of a program that runs, with the lines that have left it at the top."""

    def __init__(
        self, process: subprocess.Popen[bytes], descriptor: int, control: int, columns: int, rows: int
    ) -> None:
        self.process, self._descriptor, self._control = process, descriptor, control
        self._screen = pyte.HistoryScreen(columns, rows, history=1_000, ratio=0.5)
        self._stream = pyte.ByteStream(self._screen)

    def lines(self) -> list[str]:
        """All lines, from the first one on; empty ones are left out."""
        screen = self._screen
        above = ["".join(line[x].data for x in range(screen.columns)) for line in screen.history.top]
        return [line.rstrip() for line in [*above, *screen.display] if line.strip()]

    def go_on(self, pauses: int = 1) -> None:
        """Ends so many of the program's pauses, also of those that are still to come."""
        os.write(self._control, b"." * pauses)

    def until(self, holds: Callable[[list[str]], bool]) -> list[str]:
        """The lines once they are as they should be; a program that has ended gets no more."""
        end = time.monotonic() + PATIENCE
        while not holds(self.lines()):
            if time.monotonic() > end or not self._read():
                raise AssertionError("\n".join(["the screen shows:", *self.lines()]))
        return self.lines()

    def at_the_end(self) -> list[str]:
        """The lines when the program has ended."""
        end = time.monotonic() + PATIENCE
        while self._read():
            assert time.monotonic() < end, "\n".join(self.lines())
        self.process.wait(PATIENCE)
        return self.lines()

    def _read(self) -> bool:
        """Feeds what has come within a tenth of a second; False at the end."""
        ready, _, _ = select.select([self._descriptor], [], [], 0.1)
        if not ready:
            return True
        try:
            found = os.read(self._descriptor, 65_536)
        except OSError:  # Linux: the program has closed the other side
            return False
        self._stream.feed(found)
        return bool(found)


@contextmanager
def terminal(program: str, columns: int, rows: int, **variables: str) -> Iterator[Terminal]:
    """Runs Python code in a terminal of this size; ``pause()`` in it waits for the test."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    reader, writer = os.pipe()
    known = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    environment = known | {"TERM": "xterm-256color"} | variables
    command = [sys.executable, "-c", PAUSE.format(fd=reader) + program]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, pass_fds=(reader,), env=environment)
    os.close(theirs)
    try:
        yield Terminal(process, ours, writer, columns, rows)
    finally:
        process.kill()
        process.wait()
        for descriptor in (ours, reader, writer):
            os.close(descriptor)
