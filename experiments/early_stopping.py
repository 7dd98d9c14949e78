"""Trains with the checkpoints kept, and evaluates the one that is best on the rows for tuning.

    python -m experiments.early_stopping --set variant=no_retention --set checkpoint_every=50 \
        --set checkpoint_keep=1000 --output-root runs/early_stopping

Every checkpoint is evaluated on the split ``tune`` and chosen from by the rule of
:func:`experiments.tuning.choose`. The chosen one alone is then evaluated on the rows of the settings, and stands in the
output root as a finished run, whose ``metrics.json`` also holds what was chosen from, under ``early_stopping``.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from experiments.tables import Figures
from experiments.tuning import TUNING_SPLIT, choose, point_of, tuning_settings
from safe_train.cli.errors import one_line_errors
from safe_train.cli.options import quiet_libraries
from safe_train.config import StageAConfig, build_config
from safe_train.errors import InputError
from safe_train.io.files import json_text, write_text
from safe_train.runs.checkpoint import list_checkpoints
from safe_train.runs.layout import RunFolder
from safe_train.training.callbacks import RunCallbacks
from safe_train.training.run import evaluate_run, start_run

SEARCH = "search"
"""Folder of the training and of its checkpoints' evaluations, removed when the choice is made."""


def train_and_choose(settings: Mapping[str, str], root: Path) -> Path:
    """Trains, chooses a checkpoint and evaluates it.

    Args:
        settings: dotted settings as text; ``data.val_split`` names the rows of the last evaluation.
        root: the finished run's folder is made there.

    Returns:
        The folder.

    Raises:
        InputError: a setting is unknown or does not fit.
    """
    search = root / SEARCH
    shutil.rmtree(search, ignore_errors=True)
    config = build_config({}, dict(settings) | tuning_settings(settings) | {"output_root": str(search / "training")})
    outcome = start_run(config, RunCallbacks())
    training = json.loads((RunFolder(outcome.folder).metrics).read_text(encoding="utf-8"))
    checkpoints = {found.step: found.folder for found in list_checkpoints(RunFolder(outcome.folder).checkpoints)}
    evaluations: dict[int, Figures] = {}
    for step, checkpoint in checkpoints.items():
        if step == training["training"]["steps"]:  # the training's own evaluation was of this one
            evaluations[step] = training["evaluation"]
        else:
            view = _view(outcome.folder, checkpoint, search / str(step))
            evaluations[step] = evaluate_run(view, {}, RunCallbacks()).to_dict()
    rate = config.optimization.lr_adapter
    points = [point_of(rate, [evaluation], step) for step, evaluation in evaluations.items()]
    step = choose(points).step
    assert step is not None
    split = settings.get("data.val_split", StageAConfig().data.val_split)
    chosen = _view(outcome.folder, checkpoints[step], search / "chosen", val_split=split)
    found = evaluations[step] if split == TUNING_SPLIT else evaluate_run(chosen, {}, RunCallbacks()).to_dict()
    stopped = {"chosen_step": step, "rows": TUNING_SPLIT, "points": [asdict(point) for point in points]}
    finished_at = datetime.now().astimezone().isoformat(timespec="seconds")
    metrics = training | {"evaluation": found, "early_stopping": stopped, "finished_at": finished_at}
    shutil.copy(RunFolder(outcome.folder).metrics_log, chosen)  # of all steps, those after the chosen one too
    write_text(RunFolder(chosen).metrics, json_text(metrics))
    folder = chosen.rename(root / f"{datetime.now():%Y%m%d-%H%M%S}_{config.variant}")
    shutil.rmtree(search)
    return folder


def _view(run: Path, checkpoint: Path, folder: Path, **data: str) -> Path:
    """A folder with one checkpoint of a run, and settings of the data that are its own."""
    described = json.loads((RunFolder(run).config).read_text(encoding="utf-8"))
    described["data"] |= data
    write_text(RunFolder(folder).config, json_text(described))
    shutil.copytree(checkpoint, RunFolder(folder).checkpoints / checkpoint.name)
    return folder


@one_line_errors
def main() -> None:
    """Trains with the settings of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", dest="assignments", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--output-root", type=Path, required=True)
    arguments = parser.parse_args()
    quiet_libraries()
    settings = {}
    for assignment in arguments.assignments:
        key, separator, value = assignment.partition("=")
        if not separator:
            hint = "for instance --set variant=no_retention"
            raise InputError(f"--set {assignment}", "key=value", "no =", hint)
        settings[key] = value
    print(train_and_choose(settings, arguments.output_root))


if __name__ == "__main__":
    main()
