"""Command lines of the ablation: every error is one line with exit code 2, as in ``safe``."""

from __future__ import annotations

import argparse
from typing import NoReturn

from safe_train.usage import EXIT_INPUT, exit_with


class OneLineParser(argparse.ArgumentParser):
    """A parser that shows defaults in its help, takes no abbreviated options and ends with one line on bad usage."""

    def __init__(self, description: str, epilog: str | None = None) -> None:
        super().__init__(
            description=description, epilog=epilog, allow_abbrev=False, formatter_class=_DefaultsAndLineBreaks
        )

    def error(self, message: str) -> NoReturn:
        """Ends the program."""
        exit_with(f"{self.prog}: {' '.join(message.split())}; see --help", EXIT_INPUT)


class _DefaultsAndLineBreaks(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and leaves description and epilog as they are written."""


def count(text: str) -> int:
    """A whole number of at least 1, for ``type=``."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected at least 1")
    return number


def seed(text: str) -> int:
    """A whole number of at least 0, for ``type=``."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text}: expected at least 0")
    return number
