"""``safe rerun-step``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from safe_train.cli.errors import one_line_errors
from safe_train.cli.options import command, quiet_libraries


@command()
@click.argument("folder", type=click.Path(path_type=Path))
@one_line_errors
def replay(folder: Path) -> None:
    """Compute a step again that met NaN or infinity.

    FOLDER is RUN/non_finite/step-N, which such a run keeps. Exit code 1 if everything is finite this time.
    """
    quiet_libraries()
    from safe_train.training.rerun_step import replay as replay_step

    replayed = replay_step(folder)
    click.echo(f"step {replayed.step}: " + ", ".join(f"{name} {value}" for name, value in replayed.losses.items()))
    click.echo(f"weights not finite before it: {', '.join(replayed.weights) or 'none'}")
    if replayed.is_finite:
        click.echo("finite this time: the step could not be reproduced", err=True)
        sys.exit(1)
