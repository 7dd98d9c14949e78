"""``safe env``."""

from __future__ import annotations

import click

from safe_train.cli.errors import one_line_errors
from safe_train.cli.options import command


@command()
@one_line_errors
def env() -> None:
    """Show versions, devices and the kernel backend.

    Combinations of packages that are known not to work are named.
    """
    from safe_train.runs.environment import collect, format_environment

    click.echo(format_environment(collect()))
