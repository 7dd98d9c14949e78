"""A run from configuration to closing table, and what is read back from a finished one."""

from __future__ import annotations

import json
import logging
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safe_train.checkpoint import latest_checkpoint
from safe_train.config import StageAConfig, build_config
from safe_train.data.batch import RowEncoder
from safe_train.errors import InputError
from safe_train.evaluate import BaseAnswers, Evaluation, Evaluator, base_answers
from safe_train.experiment import Rows, attach, load_base_model, load_rows, row_encoder, row_stream
from safe_train.model import SafeModel
from safe_train.stage_a import CHECKPOINTS, StageA, TrainingOutcome
from safe_train.summary import PICTURE, SUMMARY, draw_picture, format_table, read_summary

logger = logging.getLogger(__name__)

CONFIG = "config.json"
METRICS = "metrics.json"
SUBSETS = "subset_indices.json"
_DERIVED = ("effective", "versions")


@dataclass(frozen=True)
class Observer:
    """What a run tells whoever watches it.

    Attributes:
        stage: called with a few words when a new stage begins.
        step: called after each step with its number, the number of steps, and the metrics if they were logged.
        should_stop: asked after each step.
    """

    stage: Callable[[str], None] = lambda _words: None
    step: Callable[[int, int, dict[str, float]], None] = lambda _step, _total, _metrics: None
    should_stop: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended.

    Attributes:
        folder: the run's folder.
        training: how the training ended.
        table: the closing table, or None if the run was stopped before its evaluation.
    """

    folder: Path
    training: TrainingOutcome
    table: str | None


@dataclass(frozen=True)
class _Prepared:
    """A configuration with everything loaded."""

    model: SafeModel
    encoder: RowEncoder
    rows: Rows
    base: BaseAnswers

    def evaluator(self, config: StageAConfig) -> Evaluator:
        return Evaluator(
            self.model, self.encoder, self.rows.val_vl, self.rows.val_audio, self.base, config.evaluation, config.seed
        )


def start_run(config: StageAConfig, observer: Observer) -> RunOutcome:
    """Trains and evaluates; nothing is written before models and data have been loaded.

    Raises:
        InputError: something in the configuration does not exist or does not fit.
    """
    root = Path(config.output_root).expanduser()
    _require_writable(root)
    prepared = _prepare(config, observer)
    stage_a = StageA(config, prepared.model, prepared.encoder, row_stream(prepared.rows, config))
    folder = _new_folder(root, config.variant)
    _write_json(folder / CONFIG, stage_a.described_configuration() | {"versions": _versions()})
    _write_json(folder / SUBSETS, prepared.rows.indices)
    return _train_and_evaluate(config, stage_a, prepared, folder, observer)


def resume_run(folder: Path, observer: Observer) -> RunOutcome:
    """Goes on from the newest checkpoint of a run.

    Raises:
        InputError: the folder is no run, or has no checkpoint.
    """
    config = read_config(folder)
    checkpoint = latest_checkpoint(folder)
    prepared = _prepare(config, observer)
    stage_a = StageA(config, prepared.model, prepared.encoder, row_stream(prepared.rows, config))
    stage_a.resume(checkpoint, folder)
    logger.info("resumed %s after step %d", folder, stage_a.step)
    return _train_and_evaluate(config, stage_a, prepared, folder, observer)


def evaluate_run(folder: Path, changes: dict[str, Any], observer: Observer) -> Evaluation:
    """Evaluates a run's newest checkpoint again, with some evaluation settings changed."""
    config = read_config(folder)
    config = config.model_copy(update={"evaluation": config.evaluation.model_copy(update=changes)})
    prepared = _prepare(config, observer)
    load_trained(folder, prepared.model)
    return prepared.evaluator(config).run(observer.stage)


def load_trained(folder: Path, model: SafeModel) -> None:
    """Puts the newest checkpoint's trained parts and gate into a model."""
    checkpoint = latest_checkpoint(folder)
    model.load_adapter(checkpoint.folder)
    model.gate = 1.0


def read_config(folder: Path) -> StageAConfig:
    """The configuration of a run.

    Raises:
        InputError: the folder is no run's.
    """
    path = folder / CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        way_out = "name a run folder, such as runs/20260101-120000_full_retention"
        raise InputError(path, "the configuration of a run", " ".join(str(error).split()), way_out) from error
    return build_config({key: value for key, value in values.items() if key not in _DERIVED}, {}, where=str(path))


def _prepare(config: StageAConfig, observer: Observer) -> _Prepared:
    observer.stage("loading")
    rows = load_rows(config)
    base = load_base_model(config)
    observer.stage("VL, base")
    reference = base_answers(base, rows.val_vl, config.evaluation)
    model = attach(base, config)
    return _Prepared(model, row_encoder(model), rows, reference)


def _train_and_evaluate(
    config: StageAConfig, stage_a: StageA, prepared: _Prepared, folder: Path, observer: Observer
) -> RunOutcome:
    total = config.optimization.max_steps
    evaluator = prepared.evaluator(config)

    def evaluate_midway(step: int) -> None:
        evaluation = evaluator.run()
        with (folder / "evaluations.jsonl").open("a") as file:
            file.write(json.dumps({"step": step} | evaluation.to_dict()) + "\n")

    observer.stage("training")
    training = stage_a.train(
        folder,
        on_step=lambda step, metrics: observer.step(step, total, metrics),
        on_interval=evaluate_midway,
        should_stop=observer.should_stop,
    )
    if not training.finished:
        return RunOutcome(folder, training, None)
    stage_a.model.gate = 1.0
    evaluation = evaluator.run(observer.stage)
    metrics = {
        "variant": config.variant,
        "seed": config.seed,
        "training": asdict(training),
        "evaluation": evaluation.to_dict(),
        "finished_at": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    _write_json(folder / METRICS, metrics)
    summary = read_summary(folder)
    table = format_table([summary])
    (folder / SUMMARY).write_text(table)
    draw_picture([summary], folder / PICTURE)
    return RunOutcome(folder, training, table)


def _require_writable(root: Path) -> None:
    """Finds out before the work whether its results can be written."""
    existing = next(path for path in (root, *root.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        got = "a file" if existing.is_file() else "no permission to write"
        raise InputError(existing, "a folder that can be written", got, "choose another --output-root")


def _new_folder(root: Path, variant: str) -> Path:
    """``<timestamp>_<variant>``; of two runs in one second, the second waits for the next."""
    while True:
        folder = root / f"{datetime.now():%Y%m%d-%H%M%S}_{variant}"
        try:
            (folder / CHECKPOINTS).mkdir(parents=True)
        except FileExistsError:
            time.sleep(0.2)
        except OSError as error:
            way_out = "choose another --output-root"
            raise InputError(root, "a folder that can be written", str(error.strerror), way_out) from error
        else:
            return folder


def _versions() -> dict[str, str]:
    packages = ("safe-audio", "torch", "transformers", "torchaudio")
    return {"python": platform.python_version()} | {package: version(package) for package in packages}


def _write_json(path: Path, value: object) -> None:
    """Writes next to the target and renames, so that a reader never sees half a file."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)
