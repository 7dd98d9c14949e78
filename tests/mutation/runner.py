"""Runs mutants, each in a copy of the tree: first the nearest tests, then, of those that survive, all."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.mutation.mutants import Mutant
from tests.mutation.selection import LEFT_OUT, Neighborhood

NEAREST, ALL = "nearest", "all"
SLACK_SECONDS = 60.0
"""Added to three times what the tests take without a fault; after that, the mutant has stopped them for good."""

_PYTEST = ("-x", "-q", "--no-header", "--tb=no", "-rfE", "-p", "no:cacheprovider", "-m", "not slow and not gpu")
_NO_TESTS = 5
"""Exit code of pytest where no test is left by the marks."""


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant.

    Attributes:
        status: ``killed``, ``timeout`` (counts as killed) or ``survived``.
        stage: the last one that was run, ``nearest`` or ``all``.
        killed_by: the test that failed first, or how the tests ended; None for a survivor.
        seconds: how long its tests ran.
        tests: the nearest test files.
    """

    status: str
    stage: str
    killed_by: str | None
    seconds: float
    tests: list[str]


@dataclass(frozen=True)
class Tree:
    """A tree of sources and tests.

    Attributes:
        root: its folder, which is never changed.
        files: what a copy holds, relative to the root.
        links: what a copy links to instead.
        packages: top-level packages that have to come from the copy.
        python: interpreter that runs the tests.
        mirrors: see `selection.MIRRORS`.
    """

    root: Path
    files: Sequence[str]
    packages: Sequence[str]
    links: Sequence[str] = ()
    python: str = sys.executable
    mirrors: Mapping[str, str] = field(default_factory=dict)


class Copy:
    """A copy of a tree in which one mutant at a time is tried."""

    def __init__(self, tree: Tree, folder: Path) -> None:
        self.tree, self.folder = tree, folder
        for file in tree.files:
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(tree.root / file, target)
        for link in tree.links:
            (folder / link).symlink_to(tree.root / link)
        self._refuse_other_packages()

    @property
    def environment(self) -> dict[str, str]:
        """Of the tests. Processes that they start find the copy's packages as well; nothing compiled is kept."""
        return os.environ | {
            "PYTHONPATH": str(self.folder),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
        }

    def _refuse_other_packages(self) -> None:
        program = "import importlib, sys\nfor name in sys.argv[1:]: print(importlib.import_module(name).__file__)"
        command = [self.tree.python, "-c", program, *self.tree.packages]
        done = subprocess.run(
            command, cwd=self.folder.parent, env=self.environment, capture_output=True, text=True, check=True
        )
        for file in done.stdout.splitlines():
            if not Path(file).is_relative_to(self.folder):
                raise RuntimeError(f"{file}: expected the packages of {self.folder}; the mutants would not be tried")

    @contextmanager
    def with_mutant(self, mutant: Mutant) -> Iterator[None]:
        """The copy has the fault inside of this block."""
        file = self.folder / mutant.path
        source = file.read_text(encoding="utf-8")
        file.write_text(mutant.applied(source), encoding="utf-8")
        try:
            yield
        finally:
            file.write_text(source, encoding="utf-8")

    def tests(self, files: Sequence[str], limit: float | None) -> tuple[int | None, str, float]:
        """Exit code (None: out of time), output and seconds of some test files."""
        command = [self.tree.python, "-m", "pytest", *_PYTEST, *files]
        start = time.monotonic()
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
            try:
                code: int | None = process.wait(limit)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                _end_group(process)
            seconds = time.monotonic() - start
            output.seek(0)
            return code, output.read(), seconds


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends the tests and what they have started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Baseline:
    """What tests do without a fault: how long they take, and which of them fail anyway and can tell nothing."""

    def __init__(self, copy: Copy) -> None:
        self._copy, self._lock = copy, threading.Lock()
        self.seconds: dict[str, float] = {}
        self.failing: list[str] = []

    def usable(self, files: Sequence[str]) -> list[str]:
        """Those that pass; each is run once."""
        with self._lock:
            for file in files:
                if file not in self.seconds:
                    code, _, self.seconds[file] = self._copy.tests([file], None)
                    if code not in (0, _NO_TESTS):
                        self.failing.append(file)
            return [file for file in files if file not in self.failing]

    def limit(self, files: Sequence[str]) -> float:
        """Seconds after which their run is ended."""
        return SLACK_SECONDS + 3 * sum(self.seconds[file] for file in files)


class Runner:
    """Tries mutants in turns and writes what became of them after each.

    Args:
        tree: sources and tests.
        output: the JSON file; what it holds of this revision is not tried again.
        header: what the file says beside the mutants: seed, revision, versions.
        stage: ``nearest``, or ``all`` for the others too.
        workers: copies in which mutants are tried at the same time.
        report: takes a line about each mutant.
    """

    def __init__(
        self,
        tree: Tree,
        output: Path,
        header: Mapping[str, Any],
        *,
        stage: str = ALL,
        workers: int = 1,
        report: Callable[[str], None] = print,
    ) -> None:
        self.tree, self.output = tree, output
        self.header: dict[str, Any] = {**header, "failing_without_a_mutant": []}
        self.stage, self.workers, self.report = stage, workers, report
        self.neighborhood = Neighborhood(tree.root, tree.mirrors)
        self.mutants: dict[str, Mutant] = {}
        self.outcomes: dict[str, Outcome] = self._earlier()
        self._lock = threading.Lock()

    def _earlier(self) -> dict[str, Outcome]:
        if not self.output.exists():
            return {}
        found = json.loads(self.output.read_text(encoding="utf-8"))
        if found["revision"] != self.header["revision"]:
            raise SystemExit(
                f"{self.output}: expected results of revision {self.header['revision']}, got {found['revision']}; "
                "name another --output"
            )
        self.header["failing_without_a_mutant"] = found["failing_without_a_mutant"]
        names = Outcome.__dataclass_fields__
        for entry in found["mutants"]:
            mutant = Mutant(**{name: entry[name] for name in Mutant.__dataclass_fields__})
            self.mutants[mutant.key] = mutant
        return {entry["key"]: Outcome(**{name: entry[name] for name in names}) for entry in found["mutants"]}

    def run(self, mutants: Sequence[Mutant]) -> dict[str, Any]:
        """Tries what has not been tried; gives what the JSON file holds."""
        waiting = [mutant for mutant in mutants if self._is_open(mutant)]
        with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
            copies = [Copy(self.tree, Path(folder).resolve() / str(number)) for number in range(self.workers)]
            baseline = Baseline(Copy(self.tree, Path(folder).resolve() / "baseline"))
            free = list(copies)

            def attempt(mutant: Mutant) -> None:
                with self._lock:
                    copy = free.pop()
                try:
                    outcome = self._attempt(mutant, copy, baseline)
                finally:
                    with self._lock:
                        free.append(copy)
                with self._lock:
                    self.mutants[mutant.key], self.outcomes[mutant.key] = mutant, outcome
                    self._write(baseline)
                    self.report(_line(mutant, outcome, len(self.outcomes)))

            with ThreadPoolExecutor(self.workers) as pool:
                for done in [pool.submit(attempt, mutant) for mutant in waiting]:
                    done.result()
        return self.results()

    def _is_open(self, mutant: Mutant) -> bool:
        outcome = self.outcomes.get(mutant.key)
        return outcome is None or (outcome.status == "survived" and outcome.stage == NEAREST and self.stage == ALL)

    def _attempt(self, mutant: Mutant, copy: Copy, baseline: Baseline) -> Outcome:
        nearest = baseline.usable(self.neighborhood.nearest(mutant.path))
        earlier = self.outcomes.get(mutant.key)
        outcome = earlier or Outcome("survived", NEAREST, None, 0.0, nearest)
        stages = [] if earlier else [(NEAREST, nearest)] * bool(nearest)
        if self.stage == ALL:
            stages.append((ALL, baseline.usable([test for test in self.neighborhood.tests if test not in nearest])))
        with copy.with_mutant(mutant):
            for stage, files in stages:
                code, text, seconds = copy.tests(files, baseline.limit(files))
                status = "timeout" if code is None else "survived" if code in (0, _NO_TESTS) else "killed"
                by = None if status == "survived" else _first_failure(code, text)
                outcome = Outcome(status, stage, by, round(outcome.seconds + seconds, 1), nearest)
                if status != "survived":
                    break
        return outcome

    def results(self) -> dict[str, Any]:
        """Header, counts and mutants, in the order of their places."""
        keys = sorted(self.mutants, key=lambda key: (self.mutants[key].path, self.mutants[key].start, key))
        counts = {
            status: sum(outcome.status == status for outcome in self.outcomes.values())
            for status in ("killed", "timeout", "survived")
        }
        entries = [{"key": key, **asdict(self.mutants[key]), **asdict(self.outcomes[key])} for key in keys]
        return {**self.header, **counts, "mutants": entries}

    def _write(self, baseline: Baseline) -> None:
        known = self.header["failing_without_a_mutant"]
        self.header["failing_without_a_mutant"] = sorted({*known, *baseline.failing})
        self.output.parent.mkdir(parents=True, exist_ok=True)
        part = self.output.with_name(f"{self.output.name}.part")
        part.write_text(json.dumps(self.results(), indent=1) + "\n", encoding="utf-8")
        part.replace(self.output)


def _first_failure(code: int | None, text: str) -> str:
    if code is None:
        return "out of time"
    match = re.search(r"^(?:FAILED|ERROR) (\S.*?)(?: - .*)?$", text, re.MULTILINE)
    return match[1] if match else f"pytest's exit code {code}"


def _line(mutant: Mutant, outcome: Outcome, number: int) -> str:
    change = f"{mutant.before!r} -> {mutant.after!r}"
    return f"{number} {outcome.status} {mutant.path}:{mutant.line} {mutant.kind}: {change} ({outcome.killed_by})"


def files_of(root: Path) -> list[str]:
    """Files of a checkout that git tracks or would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.split("\0")
    return [name for name in names if name and (root / name).is_file() and not name.startswith(LEFT_OUT[0])]
