"""Makes runs in processes of their own, several at a time; what is finished is not made again."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safe_train.config import build_config
from safe_train.errors import InputError
from safe_train.runs.checkpoint import list_checkpoints
from safe_train.runs.layout import RunFolder, read_config

OUTPUT = "output.txt"
"""What the processes of a run printed, in its job's folder."""


@dataclass(frozen=True)
class Job:
    """A run that is to be there.

    Attributes:
        name: for people.
        settings: dotted settings as text.
        folder: holds the run's folder and nothing else.
        early_stopping: whether the checkpoint is chosen on the rows for tuning; see
            :mod:`experiments.early_stopping`.
    """

    name: str
    settings: Mapping[str, str]
    folder: Path
    early_stopping: bool = False


def finished_run(folder: Path) -> Path | None:
    """The newest finished run of a job's folder."""
    found = sorted(path.parent for path in folder.glob(f"*/{RunFolder.METRICS}"))
    return found[-1] if found else None


def require_finished(found: Mapping[str, Any], root: Path) -> None:
    """Raises where a table would hold nothing; it would replace the results of an earlier one.

    Args:
        found: finished runs, or collections of them, by any name.
        root: where they were looked for.

    Raises:
        InputError: there is none.
    """
    if not any(found.values()):
        got = "none" if root.is_dir() else "no such folder"
        raise InputError(root, "finished runs of this experiment", got, "name the --output-root of its run command")


def require_same_settings(run: Path, settings: Mapping[str, str]) -> None:
    """Raises where a run was made with other settings than those.

    Raises:
        InputError: the first setting that differs.
    """
    wanted, got = (config.model_dump(mode="json") for config in (build_config({}, settings), read_config(run)))
    for key in settings:
        if (expected := _look_up(wanted, key)) != (there := _look_up(got, key)):
            raise InputError(run, f"{key} {expected}", str(there), "choose another --output-root, or remove the run")


def commands(job: Job) -> list[list[str]]:
    """What is to be done for a job: nothing if it is finished, to go on where it was interrupted, or all of it.

    Raises:
        InputError: its folder holds a run with other settings.
    """
    if run := finished_run(job.folder):
        require_same_settings(run, job.settings)
        return []
    options = [part for key, value in job.settings.items() for part in ("--set", f"{key}={value}")]
    if job.early_stopping:
        return [[sys.executable, "-m", "experiments.early_stopping", *options, "--output-root", str(job.folder)]]
    for path in sorted(job.folder.glob(f"*/{RunFolder.CONFIG}"), reverse=True):
        if list_checkpoints(RunFolder(path.parent).checkpoints):
            require_same_settings(path.parent, job.settings)
            return [[sys.executable, "-m", "safe_train", "--resume", str(path.parent)]]
    return [[sys.executable, "-m", "safe_train", *options, "--output-root", str(job.folder)]]


def make(jobs: Sequence[Job], workers: int = 1) -> None:
    """Makes the runs that are not there, ``workers`` at a time with one thread each, and tells of each.

    One that fails does not keep the others from being made. Interrupted, the processes write their checkpoints, from
    which the next call goes on.

    Raises:
        InputError: a folder holds a run with other settings, or runs have failed.
    """
    open_jobs = [(job, command) for job in jobs for command in commands(job)]
    failed: list[tuple[Job, str]] = []
    processes = _Processes()
    with ThreadPoolExecutor(workers) as pool:
        try:
            futures = {pool.submit(processes.run, job, command): job for job, command in open_jobs}
            for count, future in enumerate(as_completed(futures), start=1):
                error, seconds = future.result()
                job = futures[future]
                print(f"[{count}/{len(futures)}] {job.name}: {error or f'{seconds:.0f} s'}", flush=True)
                failed += [(job, error)] if error else []
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            processes.stop()
            raise
    if failed:
        job, error = failed[0]
        got = f"{len(failed)} that failed, the first {job.name}: {error}"
        raise InputError(job.folder / OUTPUT, f"{len(open_jobs)} runs", got, "read that file, then start again")


class _Processes:
    """Processes that run in threads of ours, and can be stopped together."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, job: Job, command: Sequence[str]) -> tuple[str, float]:
        """The last line of output if the process failed, or else nothing, and how many seconds it took."""
        job.folder.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with (job.folder / OUTPUT).open("ab") as output:
            with self._lock:
                if self._stopped:
                    return "stopped", 0.0
                process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
                self._running.add(process)
            code = process.wait()
            with self._lock:
                self._running.discard(process)
        if code == 0:
            return "", time.perf_counter() - start
        lines = (job.folder / OUTPUT).read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "no output")
        return f"exit code {code}: {last}", time.perf_counter() - start

    def stop(self) -> None:
        """Asks all to write their checkpoints and leave."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()


def _look_up(values: Mapping[str, Any], dotted: str) -> Any:
    found: Any = values
    for part in dotted.split("."):
        found = found[part]
    return found
