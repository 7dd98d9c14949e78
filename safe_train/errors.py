"""The error for input that a person can mend: one line that says where, what was expected, what came, the way out."""

from __future__ import annotations

import signal
from pathlib import Path

from safe_train.configs.lookup import nearest
from safe_train.io.messages import one_line

__all__ = ["InputError", "NonFiniteLossError", "PeerRankError", "ProcessLostError", "StoppedError", "nearest"]


class NonFiniteLossError(Exception):
    """A loss, a gradient or what is computed from it is NaN or infinite; the step was not taken."""


class ProcessLostError(Exception):
    """Another process of a parallel run has ended, or does not answer any more."""


class PeerRankError(Exception):
    """An error that ends all processes of a parallel run, and that the main one tells; this one is to end in silence.

    Attributes:
        is_input: whether it is an ``InputError``.
    """

    def __init__(self, *, is_input: bool) -> None:
        super().__init__("the main process tells the error")
        self.is_input = is_input


class StoppedError(Exception):
    """Somebody asked to stop, and there is nothing to write that is not written already; its text is for that person.

    Attributes:
        signal: the signal that asked, if one did.
    """

    signal: signal.Signals | None = None


class InputError(Exception):
    """Bad input from outside: a file, a folder, an option or a configuration.

    Its text is one line, ``WHERE: expected EXPECTED, got GOT; WAY_OUT``, with which the commands leave (exit code 2).

    Attributes:
        where: the file (with a position, if there is one), folder, option or key.
        expected: what would have been right.
        got: what came instead.
        hint: what the person can do about it.
    """

    def __init__(self, where: str | Path, expected: str, got: str, hint: str) -> None:
        """Takes the four parts; all four are ``args`` too, so that the error survives pickling between processes."""
        super().__init__(where, expected, got, hint)
        self.where = where
        self.expected = expected
        self.got = got
        self.hint = hint

    def __str__(self) -> str:
        """One line, whatever line breaks and control characters the parts contain."""
        return one_line(f"{self.where}: expected {self.expected}, got {self.got}; {self.hint}")
