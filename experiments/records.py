"""Figures of finished runs in one file, a line a run: small enough to be kept with the code and added to over days.

    python -m experiments.ablation record runs/real --regime real --into docs/results/real_runs.jsonl
    python -m experiments.ablation run --regime real --recorded docs/results/real_runs.jsonl --output-root runs/real
    python -m experiments.ablation table docs/results/real_runs.jsonl

A record has the settings of its arm, so that a run of other settings is never taken for it, and what its base was, so
that none of another base stands beside it. Paths of the machine are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from experiments.runs import Job, finished_run, require_same_settings
from safe_train.errors import InputError
from safe_train.evaluation.predictions import KEY
from safe_train.io.files import write_text
from safe_train.io.fingerprints import versions
from safe_train.io.records import from_plain
from safe_train.report.summary import read_summary
from safe_train.runs.environment import find_machine
from safe_train.runs.layout import RunFolder, read_config

_HINT = "restore it, or make it with: python -m experiments.ablation record"


class RunKey(NamedTuple):
    """Which run of the ablation it is."""

    regime: str
    arm: str
    seed: int


@dataclass(frozen=True)
class FinishedRun:
    """What a table reads of a run, from its folder or from a record.

    Attributes:
        metrics: what its ``metrics.json`` holds.
        learning_rate: of the fusions; None if the run has not kept its settings.
    """

    metrics: Mapping[str, Any]
    learning_rate: float | None = None

    @classmethod
    def of(cls, run: Path) -> FinishedRun:
        """The run of a folder.

        Raises:
            InputError: it is not a finished run.
        """
        rate = read_config(run).optimization.lr_adapter if RunFolder(run).config.is_file() else None
        return cls(read_summary(run).metrics, rate)


@dataclass(frozen=True)
class RunRecord:
    """A finished run's figures and what they depend on.

    Attributes:
        regime: its name.
        arm: its name.
        seed: of the run.
        settings: dotted settings of the arm, as text.
        learning_rate: of the fusions.
        metrics: what its ``metrics.json`` holds.
        base_sha256: of the base's weights.
        processor: that made it.
        versions: of the packages that made it.
    """

    regime: str
    arm: str
    seed: int
    settings: dict[str, str]
    learning_rate: float
    metrics: dict[str, Any]
    base_sha256: str
    processor: str
    versions: dict[str, Any]

    @property
    def key(self) -> RunKey:
        """Which run it is."""
        return RunKey(self.regime, self.arm, self.seed)

    @property
    def finished(self) -> FinishedRun:
        """What a table reads."""
        return FinishedRun(self.metrics, self.learning_rate)


def record(jobs: Mapping[RunKey, Job]) -> list[RunRecord]:
    """The records of the jobs that have finished; call it on the machine that made them.

    Raises:
        InputError: a folder holds a run with other settings.
    """
    processor, packages = find_machine().processor, versions()
    found = []
    for key, job in jobs.items():
        if run := finished_run(job.folder):
            require_same_settings(run, job.settings)
            finished = FinishedRun.of(run)
            rate = read_config(run).optimization.lr_adapter
            described = (dict(job.settings), rate, dict(finished.metrics), _base_sha256(run), processor, packages)
            found.append(RunRecord(*key, *described))
    return found


def read_records(path: Path) -> list[RunRecord]:
    """The records of a file; none if it is not there.

    Raises:
        InputError: a line is not a record, or two are of one run, or of different bases.
    """
    if not path.is_file():
        return []
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            found.append(from_plain(RunRecord, json.loads(line)))
        except ValueError as error:
            raise InputError(f"{path}:{number}", "a run's record", " ".join(str(error).split()), _HINT) from error
    _require_consistent(path, found)
    return found


def add_records(path: Path, new: Iterable[RunRecord]) -> int:
    """Adds records to a file, sorted by regime, arm and seed, and returns how many were new.

    Raises:
        InputError: one is of a run that the file has with other figures or settings, or of another base.
    """
    found = {known.key: known for known in read_records(path)}
    added = 0
    for one in new:
        known = found.setdefault(one.key, one)
        added += known is one
        if (known.settings, known.metrics) != (one.settings, one.metrics):
            got, hint = "others", "a run that is recorded is not made again: see --recorded of run"
            raise InputError(path, f"the figures of {', '.join(map(str, one.key))} as they are recorded", got, hint)
    ordered = [found[key] for key in sorted(found)]
    _require_consistent(path, ordered)
    write_text(path, "".join(f"{json.dumps(asdict(one))}\n" for one in ordered))
    return added


def not_recorded(jobs: Mapping[RunKey, Job], path: Path) -> dict[RunKey, Job]:
    """The jobs that the file has no record of.

    Raises:
        InputError: a record's settings are not those of its job.
    """
    known = {one.key: one for one in read_records(path)}
    for key, job in jobs.items():
        if key in known and known[key].settings != dict(job.settings):
            name, _ = sorted(set(known[key].settings.items()) ^ set(job.settings.items()))[0]
            hint = "record into another file, or remove the line"
            raise InputError(path, f"the settings of {job.name}", f"another {name}", hint)
    return {key: job for key, job in jobs.items() if key not in known}


def _base_sha256(run: Path) -> str:
    """Digest of the base's weights, which an evaluation keeps with its answers."""
    found = {
        json.loads(path.read_text(encoding="utf-8"))["base"]["sha256"]
        for path in RunFolder(run).evaluations.glob(f"*/{KEY}")
    }
    if len(found) != 1:
        hint = "name the folder of a finished run"
        raise InputError(run, "evaluations of one base", f"{len(found)}", hint)
    return found.pop()


def _require_consistent(path: Path, records: Sequence[RunRecord]) -> None:
    if len({one.key for one in records}) != len(records):
        raise InputError(path, "one record of a run", "two", _HINT)
    for regime in {one.regime for one in records}:
        if len(bases := {one.base_sha256 for one in records if one.regime == regime}) > 1:
            hint = "record runs of another base into a file of their own"
            raise InputError(path, f"one base in {regime}", f"{len(bases)}", hint)
