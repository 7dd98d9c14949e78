"""``safe export``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from safe_train.cli.errors import one_line_errors
from safe_train.cli.options import command, quiet_libraries


@command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--base-model", help="Hub id of the base, where the run loaded it from a folder.")
@click.option(
    "--audio-encoder",
    "audio_encoders",
    multiple=True,
    help="Hub id of the audio encoder, where the run loaded it from a folder; once for each.",
)
@click.option("--base-revision", help="Branch, tag or commit of the base on the hub.")
@click.option("--license", default="unknown", show_default=True, help="License of the adapter, as the hub writes it.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier export in FOLDER.")
@one_line_errors
def export(run: Path, folder: Path, overwrite: bool, **publication: Any) -> None:
    """Write a run's adapter and model card for Hugging Face.

    FOLDER then loads by the Auto classes, and can be uploaded to the hub; the card has the run's results.
    """
    quiet_libraries()
    from safe_train.huggingface.export import Publication, export_run

    given = {name: value for name, value in publication.items() if value is not None}
    export_run(run, folder, Publication(**given), overwrite=overwrite)
    click.echo(f"adapter: {folder}")
