"""Command lines of the ablation: every error is one line with exit code 2, as in ``safe``."""

from __future__ import annotations

import argparse
from typing import NoReturn

from safe_train.cli.errors import EXIT_INPUT, exit_with


class OneLineParser(argparse.ArgumentParser):
    """A parser that shows defaults in its help, takes no abbreviated options and ends with one line on bad usage."""

    def __init__(self, module: str, description: str | None) -> None:
        super().__init__(
            prog=f"python -m experiments.overfitting.{module}",
            description=description,
            allow_abbrev=False,
            formatter_class=_DefaultsAndLineBreaks,
        )

    def error(self, message: str) -> NoReturn:
        """Ends the program."""
        exit_with(f"{self.prog}: {' '.join(message.split())}; see --help", EXIT_INPUT)


class _DefaultsAndLineBreaks(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and leaves the description as it is written."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        """The help with the default, if there is one."""
        return action.help if action.default is None else super()._get_help_string(action)


def at_least_one(text: str) -> int:
    """A whole number of at least 1, for ``type=``."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected at least 1")
    return number


def at_least_zero(text: str) -> int:
    """A whole number of at least 0, for ``type=``."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text}: expected at least 0")
    return number
