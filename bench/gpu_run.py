"""Everything that is wanted of a GPU, by one command, in eleven minutes.

    python -m bench.gpu_run --out gpu-results                 all steps; what has passed already is not done again
    python -m bench.gpu_run --out gpu-results --only sweeps   this step, and others where --only is given again
    python -m bench.gpu_run --out rehearsal --rehearse        the same on the CPU, at tiny sizes
    python -m bench.gpu_run --list                            what would be run, and for how long

Each step is a process with a time limit of its own. What it finds is in FOLDER/results.json as soon as it ends, however
it ends, and no step's failure keeps the next from running. `python -m bench.gpu_report FOLDER` makes a page of it.
The exit code is 0 if no step failed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.gpu.processes import Ended, run_limited
from bench.gpu.results import OtherResultsError, Results
from bench.gpu.rows import VARIABLE as ROWS_VARIABLE
from bench.gpu.rows import WARNINGS, Row, read_rows
from bench.gpu.sources import ROOT, commit, source_digest
from bench.gpu.steps import STEPS, Step
from bench.rehearsal import VARIABLE as REHEARSAL_VARIABLE

_BUDGET = 660.0
_REHEARSAL_FACTOR = 4
"""A CPU that others use as well takes longer for tiny sizes than a GPU for large ones."""

_BROKEN = "SAFE_BENCH_BROKEN"
_TESTS_FAILED = 1
"""Pytest's exit code where tests failed and nothing else did."""

_WHEELS_LIMIT = 60.0
_UNWANTED = ("SAFE_", "TRITON_INTERPRET", "PYTEST_")
"""Beginnings of variables of the caller that would change what is run."""

_REHEARSAL = {REHEARSAL_VARIABLE: "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}

Result = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What was asked for.

    Attributes:
        out: folder of the results.
        rehearse: whether to run on the CPU at tiny sizes.
        budget: seconds for all steps.
        wheels: folder of packages that are missing here, or None.
        select: of the tests of a step, those that pytest's `-k` selects by this; None for all.
    """

    out: Path
    rehearse: bool = False
    budget: float = _BUDGET
    wheels: Path | None = None
    select: str | None = None

    def limit(self, step: Step) -> float:
        """Seconds after which a step is killed."""
        return step.limit * (_REHEARSAL_FACTOR if self.rehearse else 1)


class Runner:
    """Runs steps one after the other.

    Args:
        settings: what was asked for.
        workspace: a folder for what need not stay.

    Raises:
        OtherResultsError: the folder holds results of the other kind, of a rehearsal or of a GPU.
    """

    def __init__(self, settings: Settings, workspace: Path) -> None:
        self.settings, self.workspace = settings, workspace
        self.results = Results(settings.out, rehearsal=settings.rehearse)
        self.started = time.monotonic()
        self.digest, self.commit = source_digest(), commit()
        self.environment = base_environment(settings, workspace)

    @property
    def remaining(self) -> float:
        """Seconds of the budget that are left."""
        return self.settings.budget - (time.monotonic() - self.started)

    def run(self, steps: Sequence[Step]) -> dict[str, Result]:
        """The result of each step, by name."""
        found = {}
        if self.settings.wheels is not None:
            found["wheels"] = self._install(self.settings.wheels)
        for step in steps:
            found[step.name] = self._result(step)
        return found

    def _result(self, step: Step) -> Result:
        if self.results.is_done(step.name, self.digest):
            return self.results.steps[step.name] | {"state": "done before"}
        limit = min(self.settings.limit(step), self.remaining)
        if limit < (step.seconds if self.settings.select is None else 1):  # of a part nothing is expected
            left = max(0.0, self.remaining)
            return self._kept(step.name, left_out(f"expected {step.seconds} s; {left:.0f} s of the budget are left"))
        print(f"{step.name}: {step.what} (at most {limit:.0f} s)", flush=True)
        rows = self.workspace / f"{step.name}.jsonl"
        variables = dict(step.environment(self.settings.rehearse)) | {ROWS_VARIABLE: str(rows)}
        variables |= {_BROKEN: json.dumps(broken_operations(self.results.steps))}
        ended = run_limited(
            selecting(step.command(self.settings.rehearse), self.settings.select),
            limit=limit,
            environment=self.environment | variables,
            folder=ROOT,
            log=self.workspace / f"{step.name}.log",
        )
        return self._kept(step.name, result_of(step, ended, read_rows(rows)))

    def _install(self, wheels: Path) -> Result:
        """Puts the wheels of a folder on the path of all steps."""
        site = self.workspace / "site"
        files = sorted(str(path) for path in wheels.glob("*.whl"))
        options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--disable-pip-version-check"]
        ended = run_limited(
            [sys.executable, "-m", "pip", "install", *options, "--target", str(site), *files],
            limit=_WHEELS_LIMIT,
            environment=self.environment,
            folder=ROOT,
            log=self.workspace / "wheels.log",
        )
        self.environment |= {"PYTHONPATH": os.pathsep.join([str(site), self.environment["PYTHONPATH"]])}
        rows: list[Row] = [
            {"name": Path(file).name, "outcome": "passed" if ended.code == 0 else "failed", "message": None}
            for file in files
        ]
        step = Step("wheels", "installs packages", 0, int(_WHEELS_LIMIT), lambda _: [])
        return self._kept("wheels", result_of(step, ended, rows))

    def _kept(self, name: str, result: Result) -> Result:
        """Writes a result at once; that a step was left out does not replace what it found earlier."""
        ended = datetime.now(UTC).isoformat(timespec="seconds")
        described = {"digest": self.digest, "commit": self.commit, "ended": ended}
        if self.settings.select is not None:  # a part, which does not make the whole step done
            described |= {"digest": f"{self.digest}, of which {self.settings.select}", "selected": self.settings.select}
        if result["state"] != "left out" or name not in self.results.steps:
            self.results.put(name, result | described)
        return result


def selecting(command: list[str], expression: str | None) -> list[str]:
    """A run of tests, or of some of them; other programs as they are."""
    return [*command, "-k", expression] if expression is not None and "pytest" in command else command


def base_environment(settings: Settings, workspace: Path) -> dict[str, str]:
    """Variables of all steps: nothing of the caller's that changes a figure, no network, caches of their own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_UNWANTED)}
    path = os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH")]))
    kept |= {
        "PYTHONPATH": path,
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_WAIT_POLICY": "PASSIVE",
        "SAFE_CACHE": str(workspace / "cache"),
    }
    return kept | (_REHEARSAL if settings.rehearse else {})


def left_out(message: str) -> Result:
    """The result of a step that was not run."""
    return {"state": "left out", "message": message, "seconds": 0.0, "rows": [], "tail": ""}


def result_of(step: Step, ended: Ended, rows: list[Row]) -> Result:
    """What a step's process and its rows amount to."""
    outcomes = Counter(row["outcome"] for row in rows if row["name"] != WARNINGS)
    first = next((row["message"] for row in rows if row["outcome"] == "failed"), None)
    if ended.code is None:
        state, message = "timed out", f"killed after {ended.seconds:.0f} s"
    elif outcomes and set(outcomes) == {"skipped"}:
        reasons = dict.fromkeys(str(row["message"]) for row in rows if row["outcome"] == "skipped")
        state, message = "failed", f"nothing was done: {'; '.join(reasons)}"
    elif ended.code != 0 and not (step.rows_may_fail and ended.code == _TESTS_FAILED and outcomes["passed"]):
        lines = [line for line in ended.tail.split("\n") if line.strip()]
        state, message = "failed", first or f"exit code {ended.code}: {lines[-1] if lines else 'no output'}"
    elif not outcomes["passed"]:
        state, message = "failed", "nothing was done: no row was written"
    else:
        state, message = "passed", first
    return {
        "state": state, "message": message, "code": ended.code, "seconds": round(ended.seconds, 1), "rows": rows,
        "tail": ended.tail,
    }  # fmt: skip


def broken_operations(steps: Mapping[str, Result]) -> dict[str, str]:
    """Operations whose native call failed, with the reason."""
    rows = steps.get("operations", {}).get("rows", [])
    failed = [row for row in rows if row["outcome"] == "failed"]
    found = {}
    for row in failed:
        # A row of a process that crashed has a name, `...test[operation and sizes]`, and no figures.
        operation = row["figures"].get("operation") or row["name"].partition("[")[2].partition(" ")[0].rstrip("]")
        if operation:
            found[operation] = str(row["message"]).split("\n")[0]
    return found


def closing_table(results: Mapping[str, Result]) -> str:
    """What ran, how it ended, how long it took, and its rows."""
    lines = [f"{'step':<14}{'result':<12}{'s':>6}  {'passed, failed, skipped':<25}"]
    for name, result in results.items():
        outcomes = Counter(row["outcome"] for row in result["rows"])
        counts = ", ".join(str(outcomes[kind]) for kind in ("passed", "failed", "skipped"))
        message = str(result["message"] or "").split("\n")[0][:100]
        lines.append(f"{name:<14}{result['state']:<12}{result['seconds']:>6.0f}  {counts:<25}{message}".rstrip())
    return "\n".join(lines)


def listing(steps: Sequence[Step], budget: float) -> str:
    """What will be run, how long it is expected to take and when it is killed."""
    lines = [f"{'step':<14}{'expected':>9}{'limit':>7}  what"]
    lines += [f"{step.name:<14}{step.seconds:>7} s{step.limit:>5} s  {step.what}" for step in steps]
    total = sum(step.seconds for step in steps)
    return "\n".join([*lines, f"{'together':<14}{total:>7} s of a budget of {budget:.0f} s"])


def _stop(_number: int, _frame: object) -> None:
    """A request to end, from outside: the step's process group is ended on the way out."""
    raise SystemExit(128 + signal.SIGTERM)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of the results")
    parser.add_argument("--only", action="append", choices=[step.name for step in STEPS], help="this step")
    parser.add_argument("--select", metavar="EXPRESSION", help="of the steps' tests those that pytest -k selects by it")
    parser.add_argument("--budget", type=float, help="seconds for all steps [660; 2640 for a rehearsal]")
    parser.add_argument("--wheels", type=Path, help="folder of packages that are missing here")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, at tiny sizes")
    parser.add_argument("--list", action="store_true", help="say what would be run, and for how long")
    options = parser.parse_args(arguments)
    steps = [step for step in STEPS if options.only is None or step.name in options.only]
    budget = options.budget or _BUDGET * (_REHEARSAL_FACTOR if options.rehearse else 1)
    if options.list:
        print(listing(steps, budget))
        return 0
    if options.out is None:
        parser.error("--out: expected a folder for the results, got none")
    if options.wheels is not None and not list(options.wheels.glob("*.whl")):
        # Said, and no error: what needs no further package is not to be lost with the machine.
        print(
            f"--wheels: no wheels in {options.wheels}, going on without; scripts/gpu_wheels.sh fetches them", flush=True
        )
        options.wheels = None
    signal.signal(signal.SIGTERM, _stop)
    settings = Settings(options.out, options.rehearse, budget, options.wheels, options.select)
    with tempfile.TemporaryDirectory(prefix="safe-gpu-", ignore_cleanup_errors=True) as workspace:
        try:
            results = Runner(settings, Path(workspace)).run(steps)
        except OtherResultsError as error:
            parser.error(str(error))
    for name, result in results.items():
        if result["state"] in ("failed", "timed out"):
            print(f"\n--- {name}: the end of its output\n{result['tail'][-2500:]}")
    print(f"\n{closing_table(results)}\nresults: {settings.out / 'results.json'}")
    return int(any(result["state"] in ("failed", "timed out") for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
