"""What commands share: options, shell completion, output of one process alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import click

from safe_train.cli.errors import OneLineCommand, OneLineGroup
from safe_train.distributed.launch import find_launch

command = partial(click.command, cls=OneLineCommand)
group = partial(click.group, cls=OneLineGroup)
_DISTRIBUTION = "safe-audio"


def _print_version(context: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if not asked or context.resilient_parsing:
        return
    try:
        click.echo(f"{_DISTRIBUTION} {version(_DISTRIBUTION)}")
    except PackageNotFoundError:
        click.echo(f"{_DISTRIBUTION}, a source tree that is not installed")
    context.exit()


def completes(names: Iterable[str]) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Shell completion by these names."""
    return lambda _context, _parameter, begun: [name for name in names if name.startswith(begun)]


HELP = {"help_option_names": ["-h", "--help"]}
version_option = click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version."
)


def tell(line: str) -> None:
    """Prints a line, of several processes in the main one alone."""
    if find_launch().is_main:
        click.echo(line)


def quiet_libraries() -> None:
    """Keeps the libraries' own progress bars out of the output; their warnings stay."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in ("httpx", "matplotlib"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
