"""``safe data``: check data folders, make the procedural data."""

from __future__ import annotations

from pathlib import Path

import click

from safe_train.cli.errors import one_line_errors
from safe_train.cli.options import group
from safe_train.data.datasets.registry import checked_names


@group("data")
def data_group() -> None:
    """Check data folders, and make the procedural data."""


@data_group.command("embedded")
@click.option("--val-questions", type=click.IntRange(1), help="VL questions of the validation split [2000].")
@one_line_errors
def embedded_data(val_questions: int | None) -> None:
    """Make the procedural data and print their folder.

    Nothing is written where they are there already.

    The first questions of a larger validation split are those of a smaller one; the other splits stay as they are.
    """
    from safe_train.embedded.dataset import DatasetSizes, embedded_data_root

    click.echo(embedded_data_root(DatasetSizes(val_questions=val_questions) if val_questions else DatasetSizes()))


@data_group.command("check")
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--set", "sets", multiple=True, help=f"{', '.join(checked_names())}; default all there.")
@click.option("--split", "splits", multiple=True, help="Splits to read; default those of train, val, test there.")
@click.option("--json", "report_path", type=click.Path(path_type=Path), help="Also write the report to this file.")
@one_line_errors
def check_data(root: Path, sets: tuple[str, ...], splits: tuple[str, ...], report_path: Path | None) -> None:
    """Open every file of a data folder or pack.

    Lists are read, audio files decoded and images opened; what is missing or damaged is counted. Exit code 2 if
    anything is.
    """
    from safe_train.data.validation.check import check_root, require_no_issues
    from safe_train.data.validation.report import reports_json
    from safe_train.io.files import write_text

    reports = []
    for report in check_root(root, sets=sets, splits=splits):
        click.echo(str(report))
        reports.append(report)
    if report_path is not None:
        write_text(report_path, reports_json(root, reports))
    require_no_issues(root, reports)
