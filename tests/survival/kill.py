"""Kills short runs of the embedded model with SIGKILL, lets them go on, and compares their ends bit for bit.

    python -m tests.survival.kill --kills 50 --aimed 10 --output docs/results/survival.json

A kill comes at a moment drawn uniformly from the time that an uninterrupted run takes, whatever the process is doing
then: for half of the kills from its start, for half from the end of loading, which takes the longest. The aimed ones
wait for a checkpoint that is being written (the process is halted, looked at, and killed), or for the closing
evaluation. A run that was killed before its first checkpoint is started again, any other resumed, and killed again, up
to four times; then it is left to end.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import torch

from safe_train.runs.checkpoint import list_checkpoints
from tests.data.shards import as_shards
from tests.survival.runs import SETTINGS, Process, differences, end_of, resume, start, write_data

ANY, LOADED, CHECKPOINT, EVALUATION = "any moment", "after loading", "checkpoint", "evaluation"
WRITING = "writing a checkpoint"


@dataclass(frozen=True)
class Kill:
    """One kill.

    Attributes:
        run: number of the run.
        aim: what was waited for.
        seconds: since the process was started.
        doing: what the process was doing, by what it had said and what lay on the disk.
        step: step of the newest checkpoint then; None without one.
    """

    run: int
    aim: str
    seconds: float
    doing: str
    step: int | None


def only_run(output: Path) -> Path | None:
    """The run folder in an output folder, if it is there already."""
    return next(iter(sorted(output.glob("*"))), None)


def newest_step(run: Path | None) -> int | None:
    """Step of the newest checkpoint."""
    found = list_checkpoints(run / "checkpoints") if run else []
    return found[-1].step if found else None


def doing(log: Path, run: Path | None) -> str:
    """What a process that was killed had been doing."""
    if run and any(run.glob("checkpoints/.step-*.partial/*")):
        return WRITING
    told = stages(log)
    if not told or told[-1] in ("loading", "reading files"):
        return "starting"
    if told[-1] == "training":
        return "training" if newest_step(run) else "before the first checkpoint"
    return "answering as the base" if told[-1] == "VL, base" else "closing evaluation"


def stages(log: Path) -> list[str]:
    """The stages that a process has told of."""
    return re.findall(r"^\[ *[\d.]+ s\] (?!step)(.*)$", log.read_text(), flags=re.MULTILINE)


def has_come(aim: str, process: Process, output: Path, started: float) -> bool:
    """Whether what a kill waits for is there; ``started`` is when the process was, by the clock of files."""
    if aim == CHECKPOINT:
        written = output.glob("*/checkpoints/.step-*.partial/*")
        return any(path.stat().st_mtime > started for path in written if path.exists())
    told = stages(process.log)
    return {ANY: True, LOADED: "training" in told, EVALUATION: "audio, matched" in told}[aim]


class Trials:
    """Runs that are killed until a number of kills is reached.

    Attributes:
        expected: what an uninterrupted run came to.
        seconds: what it took.
        loading: what of this went by before its first step.
        kills: the kills so far.
        ends: for each run that came to its end, what differs from the expected.
    """

    def __init__(
        self, folder: Path, seed: int, tell: Callable[[str], None] = lambda _line: None, *, shards: bool = False
    ) -> None:
        self.folder, self.tell = folder, tell
        self.random = random.Random(seed)
        self.kills: list[Kill] = []
        self.ends: list[list[str]] = []
        self._logs = 0
        self.data = folder / "data"
        write_data(self.data)
        if shards:
            self.data = as_shards(self.data, folder / "shards")
        begun = time.monotonic()
        process = start(self._log(), self.data, folder / "straight")
        while "training" not in stages(process.log) and process.poll() is None:
            time.sleep(0.01)
        self.loading = time.monotonic() - begun
        process.finished()
        self.seconds = time.monotonic() - begun
        run = only_run(folder / "straight")
        assert run is not None
        self.expected = end_of(run)
        tell(f"uninterrupted: {self.seconds:.1f} s, {self.loading:.1f} of them loading")

    def kill_and_resume(self, aims: Iterator[str]) -> None:
        """One run from its first start to its end, killed once for each aim that comes up before it has ended."""
        number = len(self.ends) + 1
        output, run = self.folder / f"killed-{number}", None
        for attempt in range(1000):
            if newest_step(run) is None:
                output = self.folder / f"killed-{number}-{attempt}"
                process = start(self._log(), self.data, output)
            else:
                assert run is not None
                process = resume(self._log(), run)
            ended = self._wait_or_kill(process, output, number, next(aims, None))
            run = only_run(output)
            if ended:
                break
        assert run is not None
        self.ends.append(differences(self.expected, end_of(run)))
        self.tell(f"run {number} ended: {self.ends[-1] or 'bit-equal'}")

    def _wait_or_kill(self, process: Process, output: Path, number: int, aim: str | None) -> bool:
        """Kills at the moment that is aimed at; True if the process came to its end before, or there is no aim."""
        if aim is None:
            process.finished()
            return True
        started, of_files = time.monotonic(), time.time()
        rest = {ANY: self.seconds, LOADED: self.seconds - self.loading}.get(aim, 0.02)
        moment = None
        while True:
            if process.poll() is not None:
                process.finished()
                return True
            if moment is None and has_come(aim, process, output, of_files):
                moment = time.monotonic() + self.random.uniform(0, rest)
            if moment is not None and time.monotonic() >= moment:
                if aim != CHECKPOINT or self._halts_while_writing(process, output):
                    break
                moment = None  # the checkpoint was complete before its moment came: the next one, then
            time.sleep(0.001)
        process.kill()
        run = only_run(output)
        kill = Kill(number, aim, round(time.monotonic() - started, 3), doing(process.log, run), newest_step(run))
        self.kills.append(kill)
        self.tell(f"kill {len(self.kills)}: {kill}")
        return False

    def _halts_while_writing(self, process: Process, output: Path) -> bool:
        process.stop()
        if process.poll() is not None or doing(process.log, only_run(output)) == WRITING:
            return process.poll() is None
        process.go_on()
        return False

    def _log(self) -> Path:
        self._logs += 1
        return self.folder / f"{self._logs}.log"


def report(trials: Trials, seed: int, *, shards: bool) -> dict[str, Any]:
    """The moments and the ends as JSON."""
    return {
        "question": "runs killed with SIGKILL and resumed: is the end that of an uninterrupted run, bit for bit?",
        "kills": len(trials.kills),
        "runs": len(trials.ends),
        "runs_bit_equal": sum(not differing for differing in trials.ends),
        "doing": dict(Counter(kill.doing for kill in trials.kills)),
        "seed": seed,
        "shards": shards,
        "settings": SETTINGS,
        "uninterrupted_seconds": round(trials.seconds, 1),
        "loading_seconds": round(trials.loading, 1),
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
        "moments": [asdict(kill) for kill in trials.kills],
        "differing": {str(number): names for number, names in enumerate(trials.ends, 1) if names},
    }


def preload() -> None:
    """Imports what a run needs."""
    for name in ("safe_train.training.run", "safe_train.cli.callbacks", "peft", "scipy.stats", "matplotlib.pyplot"):
        importlib.import_module(name)
    for family in ("llava", "clip", "llama", "clap"):
        importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    torch.set_num_threads(1)
    Process.preloaded = True


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="kills at random moments")
    parser.add_argument("--aimed", type=int, default=10, help="kills beside these at moments that are waited for")
    parser.add_argument("--kills-a-run", type=int, default=4, help="then a run is left to end")
    parser.add_argument("--preloaded", action="store_true", help="start runs as copies of this process")
    parser.add_argument("--shards", action="store_true", help="data in tar shards, not in files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    if given.preloaded:
        preload()
    with tempfile.TemporaryDirectory() as folder:
        trials = Trials(Path(folder), given.seed, lambda line: print(line, flush=True), shards=given.shards)
        counts = {
            ANY: given.kills // 2, LOADED: given.kills - given.kills // 2,
            CHECKPOINT: given.aimed // 2, EVALUATION: given.aimed - given.aimed // 2,
        }  # fmt: skip
        for aim, count in counts.items():
            until = len(trials.kills) + count
            while len(trials.kills) < until:
                trials.kill_and_resume(repeat(aim, min(given.kills_a_run, until - len(trials.kills))))
        found = report(trials, given.seed, shards=given.shards)
    if given.output:
        given.output.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{found['kills']} kills, {found['runs']} runs, {found['runs_bit_equal']} bit-equal")
    raise SystemExit(0 if found["runs_bit_equal"] == found["runs"] else 1)


if __name__ == "__main__":
    main()
