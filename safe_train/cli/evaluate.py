"""``safe eval``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from safe_train.cli.errors import one_line_errors
from safe_train.cli.options import command, quiet_libraries, tell
from safe_train.distributed.launch import find_launch

if TYPE_CHECKING:
    from safe_train.evaluation.results import Evaluation

_CONTROL_DAMAGE = 2.0  # updates of the positive control, relative to the hidden states they are added to


@command("eval")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--conditions", "names", default="", metavar="NAMES", help="all, or names with commas; default as in training."
)
@click.option("--data-root", help="Folder with the data; default as in training.")
@click.option("--max-vl", type=click.IntRange(1), help="VL examples; default as in training.")
@click.option("--max-text", type=click.IntRange(1), help="Text-only examples; default as in training.")
@click.option("--max-audio", type=click.IntRange(1), help="Audio examples; default as in training.")
@click.option("--batch-size", type=click.IntRange(1), help="Examples per batch.")
@click.option(
    "--margin", type=click.FloatRange(0, 1, min_open=True, max_open=True), help="Accepted loss, 0.005 = 0.5 points."
)
@click.option(
    "--captions", "caption_metrics", is_flag=True, default=None, help="Also score captions by CIDEr-D (extra: metrics)."
)
@click.option(
    "--positive-control", is_flag=True, help="Damage the fusions first: every condition but the bypass must fail."
)
@click.option("--json", "as_json", is_flag=True, help="Print every figure as JSON in place of the table.")
@one_line_errors
def evaluate(
    run: Path, names: str, data_root: str | None, positive_control: bool, as_json: bool, **changes: float | None
) -> None:
    """Evaluate the newest checkpoint of a run.

    Prints a table and keeps every answer in the run's folder; interrupted, it resumes where it stopped. Exit code 1 if
    the positive control does not fail.
    """
    quiet_libraries()
    from safe_train.cli.callbacks import StopRequest, watching
    from safe_train.evaluation.conditions import select
    from safe_train.evaluation.table import format_evaluation
    from safe_train.evaluation.validity import assess_validity
    from safe_train.io.text_table import terminal_width
    from safe_train.runs.layout import read_config
    from safe_train.training.run import evaluate_run

    conditions = select([name.strip() for name in names.split(",")]) if names else None
    settings = {key: value for key, value in changes.items() if value is not None}
    damage = _CONTROL_DAMAGE if positive_control else 0.0
    stop = StopRequest()
    with stop.listening(), watching(stop) as callbacks:
        evaluation = evaluate_run(run, settings, callbacks, data_root=data_root, conditions=conditions, damage=damage)
    tell(json.dumps(evaluation.to_dict(), indent=2) if as_json else format_evaluation(evaluation, terminal_width()))
    if positive_control:
        _say_control(evaluation)
    elif find_launch().is_main:
        margin = settings.get("margin", read_config(run).evaluation.margin)
        for line in assess_validity(evaluation, margin=margin).lines():
            click.echo(line, err=True)


def _say_control(evaluation: Evaluation) -> None:
    """Says whether a model that was damaged on purpose fails under every condition; leaves with 1 if it does not."""
    passed = evaluation.passed_although_damaged()
    if find_launch().is_main:
        found = (
            f"the positive control did not fail: {', '.join(passed)}" if passed else "every condition fails, as it must"
        )
        click.echo(f"the fusions were damaged on purpose: {found}", err=True)
    if passed:
        sys.exit(1)
