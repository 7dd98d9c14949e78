"""The files of a run other than checkpoints and logs: its configuration and its outcome."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from safe_train.errors import InputError
from safe_train.evaluation.results import Evaluation
from safe_train.io.files import json_text, write_text
from safe_train.io.fingerprints import versions
from safe_train.io.text_table import TERMINAL_WIDTH
from safe_train.report.summary import draw_picture, format_table, read_summary
from safe_train.runs.environment import find_machine
from safe_train.runs.layout import RunFolder
from safe_train.training.prepare import Prepared
from safe_train.training.trainer import StageATrainer, TrainingOutcome

logger = logging.getLogger(__name__)

_JOB_VARIABLE = "SAFE_JOB_ID"  # set by the batch scripts, which find a job's runs by it


def write_description(
    trainer: StageATrainer, indices: Mapping[str, list[int]], notes: Mapping[str, Any] | None, folder: Path
) -> None:
    """Writes the configuration and the examples that were drawn."""
    described = trainer.described_configuration() | {"versions": versions(), "machine": asdict(find_machine())}
    described |= {"job": os.environ[_JOB_VARIABLE]} if _JOB_VARIABLE in os.environ else {}
    write_text(RunFolder(folder).config, json_text(described | ({"notes": dict(notes)} if notes else {})))
    write_text(RunFolder(folder).subsets, json_text(indices))


def write_results(
    prepared: Prepared, training: TrainingOutcome, evaluation: Evaluation, folder: Path, *, trained: bool
) -> str:
    """Writes metrics, closing table and picture; returns the table."""
    run = RunFolder(folder)
    metrics = {
        "variant": prepared.config.variant,
        "seed": prepared.config.seed,
        "training": asdict(training),
        "cut_clips": asdict(prepared.cut_clips),
        "evaluation": evaluation.to_dict(),
        "finished_at": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    if not trained:
        metrics = _with_earlier_times(metrics, run.metrics)
    write_text(run.metrics, json_text(metrics))
    summary = read_summary(folder)
    table = format_table([summary], TERMINAL_WIDTH)
    write_text(run.summary, table)
    draw_picture([summary], run.picture)
    return table


def _with_earlier_times(metrics: dict[str, Any], path: Path) -> dict[str, Any]:
    """The metrics of a finished run that was resumed: how long it took, and when it ended, is as it was."""
    if not path.exists():
        return metrics
    try:
        earlier = read_summary(path.parent).metrics
    except InputError as error:
        logger.warning("%s; its times are written anew", error)
        return metrics
    if earlier["training"]["steps"] != metrics["training"]["steps"]:
        return metrics
    metrics = metrics | {"training": earlier["training"]}
    timed = metrics["evaluation"] | {"seconds": earlier["evaluation"].get("seconds")}
    return earlier if json.loads(json_text(timed)) == earlier["evaluation"] else metrics
