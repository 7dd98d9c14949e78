"""Short runs of the embedded model as processes of their own, and by what two that should be equal are compared."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from safe_train.cli import train
from safe_train.embedded.dataset import DatasetSizes, write_dataset
from safe_train.runs.checkpoint import list_checkpoints

ROOT = Path(__file__).parents[2]
STEPS, EVERY = 24, 3
SIZES = DatasetSizes(train_questions=60, val_questions=20, train_clips=40, val_clips=12)
SETTINGS = {
    "optimization.max_steps": STEPS, "optimization.audio_batch_size": 4, "optimization.vl_batch_size": 4,
    "retention.fisher_samples": 8, "checkpoint_every": EVERY, "log_every": 1, "evaluation.eval_steps": 2 * EVERY,
    "evaluation.batch_size": 10,
}  # fmt: skip


def write_data(root: Path) -> None:
    """A small data folder in the official formats."""
    write_dataset(root, SIZES)


class Process:
    """A run in a process group of its own; what it says is in a file.

    Attributes:
        log: where it writes.
    """

    preloaded = False
    """Whether to start runs as copies of this process (``fork``), for most of a short run's time goes into imports."""

    def __init__(self, log: Path, *arguments: object) -> None:
        self.log = log
        words = [str(argument) for argument in arguments]
        self._code: int | None = None
        with log.open("w") as file:
            self._pid = _copied(words, file.fileno()) if self.preloaded else _started(words, file.fileno())

    def poll(self) -> int | None:
        """Exit code, negative after a signal; None while it runs."""
        return self._wait(os.WNOHANG)

    def kill(self) -> None:
        """Kill -9 of the whole group."""
        os.killpg(self._pid, signal.SIGKILL)
        self._wait(0)

    def stop(self) -> None:
        """Halts the whole group where it is."""
        os.killpg(self._pid, signal.SIGSTOP)
        _, status = os.waitpid(self._pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            self._code = os.waitstatus_to_exitcode(status)

    def go_on(self) -> None:
        """Lets a halted group go on."""
        os.killpg(self._pid, signal.SIGCONT)

    def finished(self) -> None:
        """Waits for a good end."""
        code = self._wait(0)
        assert code == 0, f"exit code {code}: {self.log.read_text()}"

    def _wait(self, options: int) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self._pid, options)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code


def _started(words: list[str], output: int) -> int:
    """A new interpreter's process id."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "safe_train", *words]
    actions = [(os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)]
    return os.posix_spawn(sys.executable, command, environment, file_actions=actions, setsid=True)


def _copied(words: list[str], output: int) -> int:
    """The process id of a copy of this one, which must have one thread alone."""
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = 1
        try:
            train.main(words, standalone_mode=True)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        finally:
            sys.stdout.flush()
            os._exit(code)
    with suppress(PermissionError):  # the copy may have done so before, and begun
        os.setpgid(pid, pid)
    return pid


def start(log: Path, data: Path, output: Path, **changes: object) -> Process:
    """Starts a run in ``output``."""
    settings = SETTINGS | {"data.root": data, "output_root": output} | changes
    return Process(log, *(word for key, value in settings.items() for word in ("--set", f"{key}={value}")))


def resume(log: Path, run: Path) -> Process:
    """Goes on with a run."""
    return Process(log, "--resume", run)


def end_of(run: Path) -> dict[str, Any]:
    """What a finished run comes to, times left out: bytes of files, and lines of metrics."""
    found: dict[str, Any] = {"checkpoints": [checkpoint.step for checkpoint in list_checkpoints(run / "checkpoints")]}
    for path in sorted(run.glob("checkpoints/step-*/*")):
        found[f"{path.parent.name}/{path.name}"] = path.read_bytes()
    for path in sorted(run.glob("evaluation/*/*.jsonl")):
        found[f"{path.parent.name}/{path.name}"] = path.read_bytes()
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        found[name] = [_timeless(json.loads(line)) for line in (run / name).read_text().splitlines()]
    found["metrics.json"] = _timeless(json.loads((run / "metrics.json").read_text()))
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of what two ends do not have in common."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def _timeless(value: Any) -> Any:
    """A JSON value without what depends on the clock."""
    if isinstance(value, dict):
        return {
            key: _timeless(item) for key, item in value.items() if key not in ("seconds", "data_seconds", "finished_at")
        }
    return value
