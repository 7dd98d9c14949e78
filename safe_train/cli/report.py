"""``safe report``."""

from __future__ import annotations

from pathlib import Path

import click

from safe_train.cli.errors import one_line_errors
from safe_train.cli.options import command, quiet_libraries
from safe_train.io.messages import one_line


@command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), help="The page; by default report.html beside the runs.")
@click.option("--picture", type=click.Path(path_type=Path), help="Also draw audio gain against VL change to this PNG.")
@one_line_errors
def report(runs: tuple[Path, ...], output: Path | None, picture: Path | None) -> None:
    """Compare finished runs in a table, a page and a JSON file.

    RUNS are run folders, or folders that hold some at any depth. Runs that differ in their seeds alone are one variant.
    """
    quiet_libraries()
    from safe_train.io.text_table import terminal_width
    from safe_train.report import read_runs, write_report
    from safe_train.report.summary import draw_picture, format_table

    found = read_runs(runs)
    click.echo(format_table(found.summaries, terminal_width()))
    if picture is not None:
        draw_picture(found.summaries, picture)
    written = write_report(found, output)
    for left in written.left_out:
        click.echo(one_line(f"left out: {left.folder}: {left.reason}"))
    click.echo(f"report: {written.page}\nfigures: {written.figures}")
