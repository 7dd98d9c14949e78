"""A process with a time limit, ended with all that it started."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_GRACE = 2.0
"""Seconds between the request to end and the end."""

_TAIL = 6000
"""Characters kept of what a process wrote."""


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: its exit code, negative for a signal's number; None if it was killed at its limit.
        seconds: how long it ran.
        tail: the end of what it wrote to standard output and standard error.
    """

    code: int | None
    seconds: float
    tail: str


def run_limited(
    command: Sequence[str], *, limit: float, environment: Mapping[str, str], folder: Path, log: Path
) -> Ended:
    """Runs a command in a process group of its own, and ends the whole group when the command ends or time is up.

    Args:
        command: program and arguments.
        limit: seconds.
        environment: all variables.
        folder: where it runs.
        log: file for what it writes.
    """
    start = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        code: int | None = None
        try:
            code = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            _signal_group(process.pid, signal.SIGTERM)
            _wait_quietly(process, _GRACE)
        finally:
            _signal_group(process.pid, signal.SIGKILL)
            process.wait()
    seconds = time.monotonic() - start
    return Ended(code, seconds, log.read_bytes().decode("utf-8", errors="replace")[-_TAIL:])


def _wait_quietly(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return  # all of them have ended
