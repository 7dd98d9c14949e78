"""``safe ask``."""

from __future__ import annotations

from pathlib import Path

import click

from safe_train.cli.errors import one_line_errors
from safe_train.cli.options import command, quiet_libraries


@command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("question")
@click.option("--image", type=click.Path(path_type=Path), help="An image file.")
@click.option("--audio", type=click.Path(path_type=Path), help="An audio file; without it SAFE hears silence.")
@one_line_errors
def ask(run: Path, question: str, image: Path | None, audio: Path | None) -> None:
    """Ask the base and SAFE a question."""
    quiet_libraries()
    from safe_train.training.ask import ask as ask_both

    answers = ask_both(run, question, image, audio)
    click.echo(f"base: {answers.base}\nSAFE: {answers.safe}")
