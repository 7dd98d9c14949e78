"""A run from its configuration to the closing table: started, resumed, or evaluated again."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safe_train.config import StageAConfig
from safe_train.distributed.processes import Processes, connected
from safe_train.errors import StoppedError
from safe_train.evaluation.conditions import Selection, select
from safe_train.evaluation.evaluator import Evaluator
from safe_train.evaluation.fingerprint import evaluation_key
from safe_train.evaluation.positive_control import damage_fusions
from safe_train.evaluation.predictions import BASE
from safe_train.evaluation.results import Evaluation
from safe_train.evaluation.storage import base_store, safe_store
from safe_train.evaluation.storage import write_results as write_evaluation
from safe_train.io.files import append_line
from safe_train.model.safe_model import SafeModel
from safe_train.runs.checkpoint import Checkpoint, latest_checkpoint, require_settings
from safe_train.runs.create import new_folder, removed_without_checkpoint, require_writable
from safe_train.runs.layout import RunFolder, read_config
from safe_train.runs.lock import locked
from safe_train.runs.recorded_variant import require_same_variant
from safe_train.training.base_defaults import follow_base
from safe_train.training.build import Rows, load_examples, resolve_device
from safe_train.training.callbacks import RunCallbacks
from safe_train.training.prepare import EVALUATION_STOPPED, Prepared, prepare
from safe_train.training.run_files import write_description, write_results
from safe_train.training.trackers import Trackers, require_reachable, tracked
from safe_train.training.trainer import StageATrainer, TrainingOutcome

logger = logging.getLogger(__name__)

MIDWAY, FINAL = "midway", "eval"
"""What trackers get the figures of evaluations under: those on a tenth of the examples are of a curve of their own."""


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


def start_run(
    config: StageAConfig,
    callbacks: RunCallbacks,
    *,
    rows: Rows | None = None,
    notes: Mapping[str, Any] | None = None,
) -> RunOutcome:
    """Trains and evaluates; nothing is written before models and data have been loaded.

    Started by torchrun or srun as several processes, they share the examples of each batch, and the first of them
    writes.

    Args:
        config: the configuration.
        callbacks: called as the run progresses.
        rows: what :func:`load_examples` returns for the configuration, if already loaded.
        notes: written to ``config.json`` under ``notes``, for people.

    Raises:
        InputError: something in the configuration does not exist or does not fit.
        StoppedError: it was asked to stop before the first step.
    """
    with _new_run(config, callbacks, rows, notes) as run:
        training = run.trainer.train(
            run.folder, on_step=run.report_step, on_interval=run.evaluate_midway, should_stop=callbacks.should_stop
        )
        return run.finish(training)


def resume_run(folder: Path, callbacks: RunCallbacks) -> RunOutcome:
    """Resumes from the newest checkpoint of a run that is whole.

    Raises:
        InputError: the folder is no run, or has no checkpoint.
    """
    with _resumed_run(folder, callbacks) as run:
        training = run.trainer.train(
            run.folder, on_step=run.report_step, on_interval=run.evaluate_midway, should_stop=callbacks.should_stop
        )
        return run.finish(training)


def evaluate_run(
    folder: Path,
    changes: dict[str, Any],
    callbacks: RunCallbacks,
    *,
    data_root: str | None = None,
    conditions: Selection | None = None,
    damage: float = 0.0,
) -> Evaluation:
    """Evaluates a run's newest checkpoint again and writes every answer and the results into the run's folder.

    An interrupted evaluation resumes where it stopped; stored answers are reused.

    Args:
        folder: the run.
        changes: evaluation settings that differ from the run's.
        callbacks: called as the run progresses.
        data_root: where the examples come from, if not from the run's own.
        conditions: what to run; by default the conditions of the settings.
        damage: above 0, the positive control; see :func:`~safe_train.evaluation.positive_control.damage_fusions`.

    Raises:
        InputError: the folder is no run, or something in it cannot be read or written.
    """
    config = read_config(folder)
    config = config.model_copy(update={"evaluation": config.evaluation.model_copy(update=changes)})
    if data_root is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"root": data_root})})
    with connected(resolve_device(config.device)) as processes, _locked(folder, processes):
        with processes.raise_on_any_rank():
            config.retention_variant()  # whether it is known here is reported before the work
            rows = load_examples(config)
        prepared = prepare(config, rows, callbacks, processes, folder, trains=False)
        final = prepared.final
        with processes.raise_on_any_rank():
            checkpoint = load_trained(folder, final.model)
            if damage:
                damage_fusions(final.model, final.encoder, final.vl_rows, ratio=damage)
        return _evaluate(folder, prepared, callbacks, checkpoint.step, conditions, damage)


def load_trained(folder: Path, model: SafeModel) -> Checkpoint:
    """Loads the newest checkpoint's trained parts into a model, opens its gate, and returns that checkpoint."""
    checkpoint = latest_checkpoint(folder)
    model.load_adapter(checkpoint.folder)
    model.gate = 1.0
    return checkpoint


@dataclass(frozen=True)
class _Run:
    """A run with everything loaded, its folder made and locked.

    Attributes:
        folder: the run's.
        prepared: everything that was loaded.
        callbacks: called as the run progresses.
        trackers: what the run reports to; in the main process alone.
        has_steps: whether steps remain to be trained.
    """

    folder: Path
    prepared: Prepared
    callbacks: RunCallbacks
    trackers: Trackers
    has_steps: bool

    @property
    def trainer(self) -> StageATrainer:
        """The trainer."""
        return self.prepared.trainer

    def report_step(self, step: int, metrics: dict[str, float]) -> None:
        """Reports a step."""
        self.trackers.log_step(step, metrics)
        self.callbacks.step(step, self.prepared.config.optimization.max_steps, metrics)

    def evaluate_midway(self, step: int) -> None:
        """Evaluates on a tenth of the examples, and logs the result."""
        midway, processes = self.prepared.midway, self.prepared.processes
        assert midway is not None
        midway.store.between = lambda _done, _total: self.callbacks.stop_if_asked(processes, EVALUATION_STOPPED)
        evaluation = _at_gate(midway, self.prepared.config.evaluation.gate)  # the next step sets its own
        line = json.dumps({"step": step} | evaluation.to_dict())
        with processes.raise_on_any_rank():
            if processes.is_main:
                append_line(RunFolder(self.folder).evaluation_log, line)
        self.trackers.log_evaluation(step, evaluation, MIDWAY)

    def finish(self, training: TrainingOutcome) -> RunOutcome:
        """Evaluates and writes the results, if the training came to its end."""
        if not training.finished:
            self.trackers.end = "stopped"
            return RunOutcome(self.folder, training, None)
        prepared, processes = self.prepared, self.prepared.processes
        try:
            evaluation = _evaluate(self.folder, prepared, self.callbacks, training.steps)
        except StoppedError:
            self.trackers.end = "stopped"
            return RunOutcome(self.folder, training, None)
        if self.has_steps or not RunFolder(self.folder).metrics.exists():  # not a second time
            self.trackers.log_evaluation(training.steps, evaluation, FINAL)
        table = None
        with processes.raise_on_any_rank():
            if processes.is_main:
                table = write_results(prepared, training, evaluation, self.folder, trained=self.has_steps)
        return RunOutcome(self.folder, training, processes.broadcast(table))


@contextmanager
def _new_run(
    config: StageAConfig, callbacks: RunCallbacks, rows: Rows | None, notes: Mapping[str, Any] | None
) -> Iterator[_Run]:
    """Loads everything, then makes the run's folder, and holds the run for the block."""
    root = Path(config.output_root).expanduser()
    with connected(resolve_device(config.device)) as processes:
        with processes.raise_on_any_rank():
            config = follow_base(config, resolve_device(config.device).type)
            if processes.is_main:
                require_writable(root)
                require_reachable(config.tracking.trackers)
            rows = rows or load_examples(config)
        prepared = prepare(config, rows, callbacks, processes)
        with processes.raise_on_any_rank():
            made = new_folder(root, config.label or config.variant) if processes.is_main else None
        folder = Path(processes.broadcast(str(made)))
        with removed_without_checkpoint(folder):
            with processes.raise_on_any_rank():
                if processes.is_main:
                    write_description(prepared.trainer, rows.indices, notes, folder)
            with _locked(folder, processes), _begun(folder, prepared, callbacks) as run:
                yield run


@contextmanager
def _resumed_run(folder: Path, callbacks: RunCallbacks) -> Iterator[_Run]:
    """Loads everything as it was after the newest checkpoint, and holds the run for the block."""
    config = read_config(folder)
    with connected(resolve_device(config.device)) as processes, _locked(folder, processes):
        checkpoint = _newest_checkpoint(folder, config, processes)
        with processes.raise_on_any_rank():
            require_same_variant(folder, config)
            rows = load_examples(config)
        prepared = prepare(config, rows, callbacks, processes, folder)
        prepared.trainer.resume(checkpoint, folder)
        logger.info("resumed %s after step %d", folder, checkpoint.step)
        with _begun(folder, prepared, callbacks) as run:
            yield run


@contextmanager
def _begun(folder: Path, prepared: Prepared, callbacks: RunCallbacks) -> Iterator[_Run]:
    """The run before its next step, with its trackers started."""
    trainer, processes, trackers = prepared.trainer, prepared.processes, Trackers()
    with ExitStack() as held:
        with processes.raise_on_any_rank():
            if processes.is_main:
                described = trainer.described_configuration()
                trackers = held.enter_context(tracked(prepared.config, described, folder, trainer.step))
        has_steps = trainer.step < prepared.config.optimization.max_steps
        callbacks.stage("training" if has_steps else "training was done before")
        yield _Run(folder, prepared, callbacks, trackers, has_steps)


@contextmanager
def _locked(folder: Path, processes: Processes) -> Iterator[None]:
    """Holds the run, in the process that writes."""
    with ExitStack() as held:
        with processes.raise_on_any_rank():
            if processes.is_main:
                held.enter_context(locked(RunFolder(folder).config))
        yield


def _newest_checkpoint(folder: Path, config: StageAConfig, processes: Processes) -> Checkpoint:
    """The newest checkpoint that the main process sees: another node's view of a shared folder may be outdated.

    Raises:
        InputError: there is no complete one, or it was written with other settings.
    """
    with processes.raise_on_any_rank():
        found = latest_checkpoint(folder) if processes.is_main else None
        if found is not None:
            require_settings(found, config, RunFolder(folder).config)
    path, step = processes.broadcast([str(found.folder), found.step] if found else None)
    return Checkpoint(Path(path), step)


def _evaluate(
    folder: Path,
    prepared: Prepared,
    callbacks: RunCallbacks,
    step: int,
    conditions: Selection | None = None,
    damage: float = 0.0,
) -> Evaluation:
    """Evaluates the model as it stands, into the run's folder."""
    config, final, processes = prepared.config, prepared.final, prepared.processes
    vl, text, audio = final.vl_rows, final.text_rows, final.audio_rows
    key = evaluation_key(prepared.base_key, config, final.model, audio, final.lengths, step=step, damage=damage)
    of_base = base_store(folder, prepared.base_key, vl, processes, text)
    of_base.complete("vl", BASE, vl, lambda rows: final.base.samples[: len(rows)], len(vl))
    if text:
        of_base.complete("text", BASE, text, lambda rows: final.base.text[: len(rows)], len(text))
    store = final.store = safe_store(folder, key, vl, audio, processes, text)
    store.between = callbacks.between_batches(processes, EVALUATION_STOPPED)
    chosen = conditions or select(config.evaluation.conditions)
    evaluation = _at_gate(final, config.evaluation.gate, callbacks.stage, chosen)
    with processes.raise_on_any_rank():
        if processes.is_main:
            write_evaluation(store, key, of_base, evaluation)
    return evaluation


def _at_gate(
    evaluator: Evaluator,
    gate: float,
    progress: Callable[[str], None] = lambda _words: None,
    conditions: Selection | None = None,
) -> Evaluation:
    """Evaluates with the model's gate set; it is open again afterwards."""
    evaluator.model.gate = gate
    try:
        return evaluator.run(progress, conditions)
    finally:
        evaluator.model.gate = 1.0
