"""``safe rerun-step``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from safe_train.cli.errors import one_line_errors
from safe_train.cli.options import command, quiet_libraries


@command("rerun-step")
@click.argument("folder", type=click.Path(path_type=Path))
@one_line_errors
def rerun_step(folder: Path) -> None:
    """Compute a step again that met NaN or infinity.

    FOLDER is RUN/non_finite/step-N, which such a run keeps. Exit code 1 if everything is finite this time.
    """
    quiet_libraries()
    from safe_train.training.rerun_step import rerun_step as rerun

    found = rerun(folder)
    click.echo(f"step {found.step}: " + ", ".join(f"{name} {value}" for name, value in found.losses.items()))
    click.echo(f"weights not finite before it: {', '.join(found.weights) or 'none'}")
    if found.is_finite:
        click.echo("finite this time: the step could not be reproduced", err=True)
        sys.exit(1)


replay = click.Command(
    "replay", callback=rerun_step.callback, params=rerun_step.params, help=rerun_step.help, hidden=True
)
"""The earlier name."""
