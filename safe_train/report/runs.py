"""Finding run folders and reading what they hold; a run that cannot be shown is left out by name, with the reason."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from safe_train.config import StageAConfig, build_config, run_settings
from safe_train.errors import InputError
from safe_train.evaluation.results import Evaluation
from safe_train.evaluation.storage import RESULTS, read_results
from safe_train.io.files import file_problem, read_lines, read_object
from safe_train.io.records import from_plain
from safe_train.report.summary import RowCounts, RunSummary, Source, is_procedural, read_summary, row_counts
from safe_train.runs.layout import RunFolder

_EXPECTED = {RunFolder.CONFIG: "the configuration of a run", RunFolder.METRICS: "the metrics of a finished run"}


@dataclass(frozen=True)
class StoredEvaluation:
    """An evaluation as ``results.json`` keeps it.

    Attributes:
        folder: where it and SAFE's answers are.
        base_folder: where the base's answers are.
        key: what the answers depend on: hashes, versions, step, damage.
        result: every figure.
        finished_at: local time, ISO 8601.
    """

    folder: Path
    base_folder: Path
    key: dict[str, Any]
    result: Evaluation
    finished_at: str

    @property
    def damage(self) -> float:
        """Above 0 for the positive control."""
        return float(self.key["damage"])

    @property
    def conditions(self) -> int:
        """How many conditions were measured, on all kinds of examples."""
        result = self.result
        return len(result.vl) + len(result.text) + len(result.documents) + len(result.audio)

    @property
    def rows(self) -> RowCounts:
        """How many examples were evaluated."""
        return row_counts(self.result)

    @property
    def step(self) -> int:
        """Of the checkpoint that was evaluated."""
        return int(self.key["step"])


@dataclass(frozen=True)
class _Weights:
    """Frozen weights as a key names them."""

    source: str
    sha256: str


@dataclass(frozen=True)
class _Key:
    """What the report reads of every key; keys name more."""

    base: _Weights
    audio_encoders: list[_Weights]
    trained_parts_sha256: str
    vl_rows_sha256: str
    audio_rows_sha256: str
    step: int
    damage: float
    max_new_tokens: int
    batch_size: int
    versions: dict[str, str]


@dataclass(frozen=True)
class Run:
    """A finished run with the evaluations that the report shows.

    Attributes:
        folder: the run's folder.
        config: its settings.
        described: ``config.json`` as it is, with what was derived from the settings.
        metrics: ``metrics.json`` as it is.
        curves: the lines of ``metrics.jsonl``, by step.
        evaluation: of the trained parts as they are; see :func:`fullest`.
        controls: of deliberately damaged parts, by damage.
        not_shown: other evaluations of the trained parts, smaller or older than the one that counts.
    """

    folder: Path
    config: StageAConfig
    described: dict[str, Any]
    metrics: dict[str, Any]
    curves: list[dict[str, float]]
    evaluation: StoredEvaluation
    controls: list[StoredEvaluation]
    not_shown: list[StoredEvaluation] = field(default_factory=list)

    @property
    def is_procedural(self) -> bool:
        """Whether the program made the examples that were evaluated."""
        return is_procedural(self.config.data.model_dump())

    @property
    def source(self) -> Source:
        """Where the figures come from."""
        shown = self.evaluation
        return Source(shown.rows, shown.step, shown.finished_at, tuple(other.rows for other in self.not_shown))


@dataclass(frozen=True)
class LeftOut:
    """A run that is not in the report.

    Attributes:
        folder: the run's folder.
        reason: why, and what to do about it.
    """

    folder: str
    reason: str


@dataclass(frozen=True)
class Found:
    """What lies under the paths that were named.

    Attributes:
        summaries: of every finished run, for the closing table, with the evaluation that the page shows.
        runs: those that the page shows.
        left_out: the others, with the reason.
    """

    summaries: list[RunSummary]
    runs: list[Run]
    left_out: list[LeftOut]


def read_runs(paths: Iterable[Path]) -> Found:
    """Reads the runs named by ``paths``: run folders, or folders that hold some at any depth.

    Raises:
        InputError: there is not one finished run.
    """
    summaries: list[RunSummary] = []
    runs: list[Run] = []
    left_out: list[LeftOut] = []
    errors: list[InputError] = []
    for folder in [folder for path in paths for folder in run_folders(path)]:
        try:
            _require_readable(folder)
            summary = read_summary(folder)
        except InputError as error:
            left_out.append(LeftOut(str(folder), _explain_unfinished(folder, error)))
            errors.append(error)
            continue
        known = next((run for run in runs if run.folder.resolve() == folder.resolve()), None)
        if known is None:
            try:
                runs.append(known := _read_run(folder, summary.metrics))
            except InputError as error:
                left_out.append(LeftOut(str(folder), f"{error.got}; {error.hint}"))
        summaries.append(summary.show(known.evaluation.result, known.source) if known is not None else summary)
    if not summaries:
        raise errors[0]
    return Found(summaries, runs, left_out)


def _require_readable(folder: Path) -> None:
    """InputError where a file that every run has is there and cannot be read to its end."""
    for name in (RunFolder.METRICS, RunFolder.CONFIG):
        if file_problem(folder / name) != "no such file":
            _read_object(folder / name)


def _read_object(path: Path) -> dict[str, Any]:
    """One of the run's files, whose numbers can be drawn and added up."""
    return read_object(path, _EXPECTED[path.name], "name the folder of a finished run", finite=True)


def _explain_unfinished(folder: Path, error: InputError) -> str:
    return (
        f"{RunFolder.METRICS} has {error.got}"
        if (folder / RunFolder.METRICS).exists()
        else f"not finished, there is no {RunFolder.METRICS}"
    )


def run_folders(path: Path) -> list[Path]:
    """The run folders at or below a path, sorted; the path itself where there is none."""
    found: list[Path] = []
    for folder, names, files in os.walk(path):
        names.sort()
        if RunFolder.METRICS in files or (
            RunFolder.CONFIG in files and (RunFolder.METRICS_LOG in files or RunFolder.CHECKPOINTS in names)
        ):
            found.append(Path(folder))
            names.clear()
    return sorted(found) or [path]


def _read_run(folder: Path, metrics: dict[str, Any]) -> Run:
    described = _read_object(folder / RunFolder.CONFIG)
    _require_shown(described, metrics, folder)
    evaluations = _read_evaluations(folder)
    whole = [evaluation for evaluation in evaluations if not evaluation.damage]
    if not whole:
        raise InputError(
            RunFolder(folder).evaluations, "stored answers", "no stored answers", f"make them with: safe eval {folder}"
        )
    damaged = {evaluation.damage for evaluation in evaluations if evaluation.damage}
    shown = fullest(whole)
    return Run(
        folder=folder,
        config=build_config(run_settings(described), {}, where=str(folder / RunFolder.CONFIG), of_a_run=True),
        described=described,
        metrics=metrics,
        curves=_read_curves(folder / RunFolder.METRICS_LOG),
        evaluation=shown,
        controls=[fullest([e for e in evaluations if e.damage == damage]) for damage in sorted(damaged)],
        not_shown=[evaluation for evaluation in whole if evaluation is not shown],
    )


def _require_shown(described: dict[str, Any], metrics: dict[str, Any], folder: Path) -> None:
    """InputError if a run's files do not say what was trained and how long, as those of every run do."""
    shown: list[tuple[str, type, dict[str, Any], tuple[str, ...]]] = [
        (RunFolder.CONFIG, list[int], described, ("effective", "adapter", "fusion_layers")),
        (RunFolder.CONFIG, int, described, ("effective", "trainable_parameters")),
        (RunFolder.METRICS, int, metrics, ("training", "steps")),
        (RunFolder.METRICS, float, metrics, ("training", "seconds")),
        (RunFolder.METRICS, list[str], metrics, ("training", "inactive")),
    ]
    for name, kind, value, keys in shown:
        try:
            from_plain(kind, reduce(getitem, keys, value))
        except (KeyError, TypeError, ValueError) as error:
            got = f"{name} has no {'.'.join(keys)} that is one"
            raise InputError(folder / name, "a file of a finished run", got, "restore the file") from error


def fullest(evaluations: Sequence[StoredEvaluation]) -> StoredEvaluation:
    """The evaluation with the most examples, of equal ones that with the most conditions, and of these the newest.

    A look at a few examples is often the last that is done; it must not take the place of the measurement.
    """
    return max(evaluations, key=weight)


def weight(evaluation: StoredEvaluation) -> tuple[int, int, float]:
    """By what evaluations are ordered: examples, conditions, time.

    Local times do not follow each other as text: the hour at the end of summer time comes twice.
    """
    return evaluation.rows.total, evaluation.conditions, datetime.fromisoformat(evaluation.finished_at).timestamp()


def _read_evaluations(folder: Path) -> list[StoredEvaluation]:
    found: list[StoredEvaluation] = []
    for path in sorted(RunFolder(folder).evaluations.glob(f"*/{RESULTS}")):
        content = read_results(path, finite=True)
        try:
            evaluation = StoredEvaluation(
                folder=path.parent,
                base_folder=path.parent.parent / _plain_name(content["base_answers"]),
                key=from_plain(dict[str, Any], content["key"]),
                result=from_plain(Evaluation, content["evaluation"]),
                finished_at=str(content["finished_at"]),
            )
            from_plain(_Key, {field.name: evaluation.key[field.name] for field in fields(_Key)}, "key")
            datetime.fromisoformat(evaluation.finished_at)
        except (KeyError, TypeError, ValueError) as error:
            got = f"no {error}" if isinstance(error, KeyError) else str(error)
            hint = f"evaluate again with: safe eval {folder}"
            raise InputError(path, "results of this version", f"{RESULTS} has {got}", hint) from error
        found.append(evaluation)
    return found


def _plain_name(name: Any) -> str:
    """The name of a folder beside another; ValueError for a path that leads elsewhere."""
    if not isinstance(name, str) or name != Path(name).name:
        raise ValueError("base_answers: not a folder's name")
    return name


def _read_curves(path: Path) -> list[dict[str, float]]:
    """Lines by step; of two lines of one step the later, which a resumed run has written."""
    by_step: dict[float, dict[str, float]] = {}
    for number, line in enumerate(read_lines(path, finite=True), start=1):
        try:
            values = {key: float(value) for key, value in (line or {}).items()}
            by_step[values["step"]] = values
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            got = f"line {number} of {path.name} is none"
            raise InputError(path, "a line of metrics", got, "remove the line") from error
    return [by_step[step] for step in sorted(by_step)]
