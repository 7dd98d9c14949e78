"""``safe variants``."""

from __future__ import annotations

import click

from safe_train.cli.options import command
from safe_train.configs.retention_variants import OVERFITTING_VARIANTS, list_variants


@command()
def variants() -> None:
    """List the retention variants."""
    list_variants()
    click.echo("\nnames of the overfitting ablation:")
    for name, registered in OVERFITTING_VARIANTS.items():
        click.echo(f"  {name} = {registered}")
