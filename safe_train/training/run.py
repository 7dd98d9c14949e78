"""A run from configuration to closing table, and what is read back from a finished one."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from safe_train.config import StageAConfig
from safe_train.data.collator import Collator, FeatureCache, require_plain_text
from safe_train.data.example import CAPTION, Example
from safe_train.distributed.fsdp import shard_base
from safe_train.distributed.processes import Processes, connected
from safe_train.errors import InputError, StoppedError
from safe_train.evaluation.audio_metric import resolve_audio_metric
from safe_train.evaluation.base_answers import BaseAnswers, base_answers
from safe_train.evaluation.conditions import Distractors, Selection, select
from safe_train.evaluation.evaluator import Evaluator
from safe_train.evaluation.fingerprint import base_key, evaluation_key, versions
from safe_train.evaluation.lengths import answer_lengths
from safe_train.evaluation.positive_control import damage_fusions
from safe_train.evaluation.predictions import BASE, NoStore, PredictionStore
from safe_train.evaluation.results import Evaluation
from safe_train.evaluation.settings import EvaluationSettings
from safe_train.evaluation.stores import base_store, safe_store, write_results
from safe_train.io.files import append_line, json_text, write_text
from safe_train.io.text_table import TERMINAL_WIDTH
from safe_train.metrics.captions import require_aac_metrics
from safe_train.model.safe_model import SafeModel
from safe_train.report.summary import draw_picture, format_table, read_summary
from safe_train.runs.checkpoint import Checkpoint, latest_checkpoint, list_checkpoints, require_settings
from safe_train.runs.environment import find_machine
from safe_train.runs.layout import RunFolder, read_config
from safe_train.runs.lock import locked
from safe_train.training.base_defaults import follow_base
from safe_train.training.build import (
    Rows,
    adapter_config,
    attach,
    build_collator,
    build_sampler,
    load_audio_encoders,
    load_base_model,
    load_examples,
    resolve_device,
)
from safe_train.training.preflight import MOST_TRAINED, file_checks, run_checks
from safe_train.training.trainer import StageATrainer, TrainingOutcome, require_examples_for_all_ranks

logger = logging.getLogger(__name__)

_STOPPED_BEFORE = "stopped before the first step; nothing was written"
_EVALUATION_STOPPED = "stopped; the same command goes on where it was"
_JOB_VARIABLE = "SAFE_JOB_ID"  # set by the batch scripts, which find a job's runs by it


@dataclass(frozen=True)
class RunCallbacks:
    """What a run tells whoever watches it, in each process.

    Attributes:
        stage: called with a few words when a new stage begins.
        step: called after each step with its number, the number of steps, and the metrics if they were logged.
        rows: called while the rows of a stage are worked through, with how many are done and how many there are.
        should_stop: asked after each step and each batch of an evaluation; where one process says so, all stop.
    """

    stage: Callable[[str], None] = lambda _words: None
    step: Callable[[int, int, dict[str, float]], None] = lambda _step, _total, _metrics: None
    rows: Callable[[int, int], None] = lambda _done, _total: None
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
    """A configuration with everything loaded.

    Attributes:
        stage_a: the training, before its first step.
        final: evaluates on all rows.
        midway: evaluates on a tenth of them, or None if the configuration asks for no such evaluation.
        base_key: what the base's answers depend on.
        processes: those of the run.
    """

    stage_a: StageATrainer
    final: Evaluator
    midway: Evaluator | None
    base_key: dict[str, Any]
    processes: Processes


def start_run(
    config: StageAConfig, observer: RunCallbacks, *, rows: Rows | None = None, notes: Mapping[str, Any] | None = None
) -> RunOutcome:
    """Trains and evaluates; nothing is written before models and data have been loaded.

    Started by torchrun or srun as several processes, they share the rows of each batch, and the first of them writes.

    Args:
        config: the configuration.
        observer: who watches.
        rows: what :func:`load_examples` gives for the configuration, if the caller has it already.
        notes: written to ``config.json`` under ``notes``, for people.

    Raises:
        InputError: something in the configuration does not exist or does not fit.
        StoppedError: it was asked to stop before the first step.
    """
    root = Path(config.output_root).expanduser()
    with connected(resolve_device(config.device)) as processes:
        with processes.raise_on_any_rank():
            config = follow_base(config, resolve_device(config.device).type)
            if processes.is_main:
                _require_writable(root)
            rows = rows or load_examples(config)
        prepared = _prepare(config, rows, observer, processes)
        with processes.raise_on_any_rank():
            made = _new_folder(root, config.label or config.variant) if processes.is_main else None
        folder = Path(processes.broadcast(str(made)))
        with _removed_without_checkpoint(folder):
            with processes.raise_on_any_rank():
                if processes.is_main:
                    _describe(prepared.stage_a, rows, notes, folder)
            with _locked(folder, processes):
                return _train_and_evaluate(config, prepared, folder, observer)


def resume_run(folder: Path, observer: RunCallbacks) -> RunOutcome:
    """Goes on from the newest checkpoint of a run that is whole.

    Raises:
        InputError: the folder is no run, or has no checkpoint.
    """
    config = read_config(folder)
    with connected(resolve_device(config.device)) as processes, _locked(folder, processes):
        checkpoint = _newest_checkpoint(folder, config, processes)
        with processes.raise_on_any_rank():
            rows = load_examples(config)
        prepared = _prepare(config, rows, observer, processes, folder)
        prepared.stage_a.resume(checkpoint, folder)
        logger.info("resumed %s after step %d", folder, checkpoint.step)
        return _train_and_evaluate(config, prepared, folder, observer)


@contextmanager
def _locked(folder: Path, processes: Processes) -> Iterator[None]:
    """Holds the run, in the process that writes."""
    with ExitStack() as held:
        with processes.raise_on_any_rank():
            if processes.is_main:
                held.enter_context(locked(RunFolder(folder).config))
        yield


def _newest_checkpoint(folder: Path, config: StageAConfig, processes: Processes) -> Checkpoint:
    """The one that the main process sees: another node's view of a shared folder may lag behind.

    Raises:
        InputError: there is none that is whole, or it was written with other settings.
    """
    with processes.raise_on_any_rank():
        found = latest_checkpoint(folder) if processes.is_main else None
        if found is not None:
            require_settings(found, config, RunFolder(folder).config)
    path, step = processes.broadcast([str(found.folder), found.step] if found else None)
    return Checkpoint(Path(path), step)


def evaluate_run(
    folder: Path,
    changes: dict[str, Any],
    observer: RunCallbacks,
    *,
    data_root: str | None = None,
    conditions: Selection | None = None,
    damage: float = 0.0,
) -> Evaluation:
    """Evaluates a run's newest checkpoint again and writes every answer and the results into the run's folder.

    An evaluation that was cut off goes on where it stopped; answers that are there already are not asked for again.

    Args:
        folder: the run.
        changes: evaluation settings that differ from the run's.
        observer: who watches.
        data_root: where the rows come from, if not from the run's own.
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
            rows = load_examples(config)
        prepared = _prepare(config, rows, observer, processes, folder, trains=False)
        final = prepared.final
        with processes.raise_on_any_rank():
            checkpoint = load_trained(folder, final.model)
            if damage:
                damage_fusions(final.model, final.encoder, final.vl_rows, ratio=damage)
        return _evaluate(folder, config, prepared, observer, checkpoint.step, conditions, damage)


def _evaluate(
    folder: Path,
    config: StageAConfig,
    prepared: _Prepared,
    observer: RunCallbacks,
    step: int,
    conditions: Selection | None = None,
    damage: float = 0.0,
) -> Evaluation:
    """Evaluates the model as it stands, into the run's folder."""
    final, settings, processes = prepared.final, config.evaluation, prepared.processes
    vl, text, audio = final.vl_rows, final.text_rows, final.audio_rows
    key = evaluation_key(prepared.base_key, config, final.model, audio, final.lengths, step=step, damage=damage)
    of_base = base_store(folder, prepared.base_key, vl, processes, text)
    of_base.complete("vl", BASE, vl, lambda rows: final.base.samples[: len(rows)], len(vl))
    if text:
        of_base.complete("text", BASE, text, lambda rows: final.base.text[: len(rows)], len(text))
    store = final.store = safe_store(folder, key, vl, audio, processes, text)
    store.between = _between_batches(observer, processes, _EVALUATION_STOPPED)
    evaluation = _at_gate(final, settings.gate, observer.stage, conditions or select(settings.conditions))
    with processes.raise_on_any_rank():
        if processes.is_main:
            write_results(store, key, of_base, evaluation)
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


def load_trained(folder: Path, model: SafeModel) -> Checkpoint:
    """Puts the newest checkpoint's trained parts into a model, opens its gate, and says which checkpoint that was."""
    checkpoint = latest_checkpoint(folder)
    model.load_adapter(checkpoint.folder)
    model.gate = 1.0
    return checkpoint


def _prepare(
    config: StageAConfig,
    rows: Rows,
    observer: RunCallbacks,
    processes: Processes,
    folder: Path | None = None,
    *,
    trains: bool = True,
) -> _Prepared:
    """Loads everything; the base's answers are read from the run's folder where it has them already.

    They take long, so whatever may turn out not to be there is looked at before them.
    """
    settings = config.evaluation
    observer.stage("loading")
    torch.manual_seed(config.seed)  # of a new process it is another each time; a checkpoint brings its own
    vl, text, audio = rows.val_vl, rows.val_text, rows.val_audio
    with processes.raise_on_any_rank():
        select(settings.conditions)  # a wrong name is told before the work
        metric = _require_scores(settings, rows)
        require_examples_for_all_ranks(config.optimization, processes)
        shards = config.parallel.shard_base and not processes.is_alone
        base = load_base_model(config, torch.device("cpu") if shards else None)
        adapter_config(config.model, len(base.decoder_layers), config.seed)  # whether its sizes fit the base
        encoders = load_audio_encoders(config)
        Distractors(audio, config.seed)  # whether there are enough clips
        for part in (rows.train_audio, rows.train_vl, rows.train_text, vl, text, audio):
            require_plain_text(base.processor, part)
        lengths = answer_lengths(settings, Collator(base.processor, FeatureCache([])), vl, text, audio)
        key = base_key(config, base, vl, lengths, text)
    stopped = _EVALUATION_STOPPED if folder else _STOPPED_BEFORE
    between = _between_batches(observer, processes, stopped)
    stream = build_sampler(rows, config)
    observer.stage("reading files")
    first = stream.first_rows(MOST_TRAINED) if trains else ()
    checks = file_checks((*audio, *vl, *text), first, encoders)
    run_checks(checks, processes, config.data.num_workers, between)
    if shards:
        shard_base(base.model, base.decoder_layers, processes, resolve_device(config.device))
    no_store = NoStore(processes)
    store = base_store(folder, key, vl, processes, text) if folder else no_store
    store.between = no_store.between = between
    _stop_if_asked(observer, processes, stopped)

    def of_base(
        vl: list[Example], text: list[Example], kept: PredictionStore | NoStore, tell: Callable[[str], None]
    ) -> BaseAnswers:
        return base_answers(base, vl, settings, kept, text=text, lengths=lengths, progress=tell)

    final = of_base(vl, text, store, observer.stage)
    parts = _subsample(vl), _subsample_text(text), _subsample_audio(audio)
    midway = of_base(parts[0], parts[1], no_store, lambda _words: None) if settings.eval_steps else None
    with processes.raise_on_any_rank():
        model = attach(base, config, encoders)
        encoder = build_collator(model, config.data)

    def evaluator(vl: list[Example], text: list[Example], audio: list[Example], reference: BaseAnswers) -> Evaluator:
        return Evaluator(
            model, encoder, vl, audio, reference, settings, config.seed, processes,
            text_rows=text, lengths=lengths, audio_metric=metric,
        )  # fmt: skip

    return _Prepared(
        stage_a=StageATrainer(config, model, encoder, stream, processes),
        final=evaluator(vl, text, audio, final),
        midway=evaluator(*parts, midway) if midway else None,
        base_key=key,
        processes=processes,
    )


def _require_scores(settings: EvaluationSettings, rows: Rows) -> str:
    """The metric of audio rows, once it is sure that the evaluation's figures can be computed from these rows.

    Raises:
        InputError: there is a single document, or what is asked for needs aac-metrics, which is not installed.
    """
    documents = sum(row.is_document for row in rows.val_text)
    if documents == 1:
        expected = "at least two documents, or parts of one: bits per byte of one tell nothing of others"
        raise InputError(
            "text-only rows to evaluate on", expected, "1", "raise evaluation.max_text, or give two or none"
        )
    if settings.caption_metrics:
        require_aac_metrics()
    return resolve_audio_metric(settings.audio_metric, rows.val_audio, rows.train_audio)


def _subsample(rows: list[Example]) -> list[Example]:
    """Every tenth row, or all of fewer than twenty."""
    return rows[::10] if len(rows) >= 20 else rows


def _subsample_text(rows: list[Example]) -> list[Example]:
    """A tenth of the questions, then one of the documents, so that there are two of each or none."""
    questions, documents = ([row for row in rows if row.is_document == asked] for asked in (False, True))
    return [*_subsample(questions), *_subsample(documents)]


def _subsample_audio(rows: list[Example]) -> list[Example]:
    """A tenth of the captions, then one of the questions about clips: CIDEr-D needs two captions."""
    captions, questions = ([row for row in rows if (row.kind == CAPTION) == asked] for asked in (True, False))
    return [*_subsample(captions), *_subsample(questions)]


def _train_and_evaluate(config: StageAConfig, prepared: _Prepared, folder: Path, observer: RunCallbacks) -> RunOutcome:
    stage_a, midway, total = prepared.stage_a, prepared.midway, config.optimization.max_steps

    def evaluate_midway(step: int) -> None:
        assert midway is not None
        midway.store.between = lambda _done, _total: _stop_if_asked(observer, prepared.processes, _EVALUATION_STOPPED)
        evaluation = _at_gate(midway, config.evaluation.gate)  # the next step sets its own
        line = json.dumps({"step": step} | evaluation.to_dict())
        with prepared.processes.raise_on_any_rank():
            if prepared.processes.is_main:
                append_line(RunFolder(folder).evaluation_log, line)

    has_steps = stage_a.step < total
    observer.stage("training" if has_steps else "training was done before")
    training = stage_a.train(
        folder,
        on_step=lambda step, metrics: observer.step(step, total, metrics),
        on_interval=evaluate_midway,
        should_stop=observer.should_stop,
    )
    if not training.finished:
        return RunOutcome(folder, training, None)
    try:
        evaluation = _evaluate(folder, config, prepared, observer, training.steps)
    except StoppedError:
        return RunOutcome(folder, training, None)
    with prepared.processes.raise_on_any_rank():
        is_main = prepared.processes.is_main
        table = _write_results(config, training, evaluation, folder, trained=has_steps) if is_main else None
    return RunOutcome(folder, training, prepared.processes.broadcast(table))


def _between_batches(observer: RunCallbacks, processes: Processes, words: str) -> Callable[[int, int], None]:
    """Shows how many rows of how many are done, and stops if asked to; called by all processes together."""

    def between(done: int, total: int) -> None:
        observer.rows(done, total)
        _stop_if_asked(observer, processes, words)

    return between


def _stop_if_asked(observer: RunCallbacks, processes: Processes, words: str) -> None:
    """Raises an error with these words if any process is asked to stop; called by all of them together."""
    if processes.any(observer.should_stop()):
        raise StoppedError(words)


def _describe(stage_a: StageATrainer, rows: Rows, notes: Mapping[str, Any] | None, folder: Path) -> None:
    """Writes the configuration and the rows that were drawn."""
    described = stage_a.described_configuration() | {"versions": versions(), "machine": asdict(find_machine())}
    described |= {"job": os.environ[_JOB_VARIABLE]} if _JOB_VARIABLE in os.environ else {}
    write_text(RunFolder(folder).config, json_text(described | ({"notes": dict(notes)} if notes else {})))
    write_text(RunFolder(folder).subsets, json_text(rows.indices))


def _write_results(
    config: StageAConfig, training: TrainingOutcome, evaluation: Evaluation, folder: Path, *, trained: bool
) -> str:
    """Writes metrics, closing table and picture; returns the table."""
    run = RunFolder(folder)
    metrics = {
        "variant": config.variant,
        "seed": config.seed,
        "training": asdict(training),
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


@contextmanager
def _removed_without_checkpoint(folder: Path) -> Iterator[None]:
    """Bad input that shows before the first checkpoint leaves no run folder; later the run can be resumed."""
    try:
        yield
    except InputError:
        if not list_checkpoints(RunFolder(folder).checkpoints):
            shutil.rmtree(folder, ignore_errors=True)  # it may be what is gone
        raise


def _require_writable(root: Path) -> None:
    """Finds out before the work whether its results can be written."""
    existing = next(path for path in (root, *root.absolute().parents) if os.path.lexists(path))
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        got = "no permission to write" if existing.is_dir() else _kind_of(existing)
        raise InputError(existing, "a folder that can be written", got, "choose another --output-root")


def _kind_of(path: Path) -> str:
    """What is there in place of a folder, in words."""
    return "a file" if path.exists() else f"a link to {path.readlink()}, which is not there"


def _new_folder(root: Path, label: str) -> Path:
    """``<timestamp>_<label>``; of two runs in one second, the second waits for the next."""
    try:
        root.mkdir(parents=True, exist_ok=True)  # not of a link that leads nowhere, whose name is there already
        while True:
            folder = root / f"{datetime.now():%Y%m%d-%H%M%S}_{label}"
            with suppress(FileExistsError):
                folder.mkdir()
                break
            time.sleep(0.2)
        RunFolder(folder).checkpoints.mkdir()
    except OSError as error:
        got, hint = str(error.strerror), "choose another --output-root"
        raise InputError(root, "a folder that can be written", got, hint) from error
    return folder
