"""``safe container``."""

from __future__ import annotations

import click

from safe_train.cli.options import command


@command(
    "container",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def container_group(arguments: tuple[str, ...]) -> None:
    """Build, test and compare the container image."""
    from containers.cli import container  # not needed by anything else here

    container.main(list(arguments), prog_name="safe container")
