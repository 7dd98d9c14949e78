"""``safe variants``."""

from __future__ import annotations

import click

from safe_train.cli.errors import one_line_errors
from safe_train.cli.options import command
from safe_train.configs.retention_variants import OVERFITTING_VARIANTS, list_variants


@command()
@click.option("--variants-file", type=click.Path(), metavar="FILE", help="YAML file of further retention variants.")
@one_line_errors
def variants(variants_file: str | None) -> None:
    """List the retention variants.

    Those of installed packages and of a file are listed beside the registered ones.
    """
    from safe_train.variants import known_variants

    list_variants(known_variants(variants_file))
    click.echo("\nnames of the overfitting ablation:")
    for name, registered in OVERFITTING_VARIANTS.items():
        click.echo(f"  {name} = {registered}")
