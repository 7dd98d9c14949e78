"""``safe container``."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import click

from safe_train.cli.errors import one_line_errors
from safe_train.cli.options import command
from safe_train.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
"""The checkout, or where the package is installed."""


@command(
    "container",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@one_line_errors
def container_group(arguments: tuple[str, ...]) -> None:
    """Build, test and compare the container image."""
    if not (ROOT / "containers" / "safe.def").is_file():
        hint = "in a clone of the project run `make .venv`, then `.venv/bin/safe container`"
        raise InputError("safe container", "a checkout, of which the image is built", f"a package in {ROOT}", hint)
    sys.path.insert(0, str(ROOT))  # other projects have a package called containers too
    import_module("containers.cli").container.main(list(arguments), prog_name="safe container")
