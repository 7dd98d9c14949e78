"""Runs mutants, each in a copy of the tree, against every test file that executes the function they are in."""

from __future__ import annotations

import json
import os
import queue
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
from types import MappingProxyType
from typing import Any

from tests.mutation.mutants import Mutant
from tests.mutation.reach import Measured, Reach, batches, executed, prepare
from tests.mutation.selection import LEFT_OUT, Neighborhood

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
        killed_by: the test that failed first, or how the tests ended; None for a survivor.
        seconds: how long its tests ran.
        tests: how many test files execute the function that it is in.
    """

    status: str
    killed_by: str | None
    seconds: float
    tests: int


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
            shutil.copy(tree.root / file, target, follow_symlinks=False)
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

    def tests(
        self, files: Sequence[str], limit: float | None, more: Mapping[str, str] = MappingProxyType({})
    ) -> tuple[int | None, str, float]:
        """Exit code (None: out of time), output and seconds of some test files, with more variables."""
        command = [self.tree.python, "-m", "pytest", *_PYTEST, *files]
        environment = {**self.environment, **more}
        start = time.monotonic()
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
            process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=output, stderr=subprocess.STDOUT,
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


def measure(copy: Copy, file: str) -> Measured:
    """Runs a test file without a fault, and records what it executes."""
    with tempfile.TemporaryDirectory(prefix="reach-") as folder:
        data = Path(folder).resolve() / "reach"
        variables = prepare(data, [copy.folder / package for package in copy.tree.packages])
        variables["PYTHONPATH"] += os.pathsep + copy.environment["PYTHONPATH"]
        code, _, seconds = copy.tests([file], None, variables)
        return Measured(round(seconds, 1), code in (0, _NO_TESTS), executed(data, copy.folder))


class Runner:
    """Tries mutants in turns and writes what became of them after each.

    Args:
        tree: sources and tests.
        output: the JSON file; what it holds of this revision is not tried again.
        header: what the file says beside the mutants: seed, revision, versions.
        workers: copies in which mutants are tried at the same time.
        report: takes a line about each mutant.
    """

    def __init__(
        self,
        tree: Tree,
        output: Path,
        header: Mapping[str, Any],
        *,
        workers: int = 1,
        report: Callable[[str], None] = print,
    ) -> None:
        self.tree, self.output = tree, output
        self.header: dict[str, Any] = {**header, "failing_without_a_mutant": []}
        self.workers, self.report = workers, report
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
        waiting = [mutant for mutant in mutants if mutant.key not in self.outcomes]
        with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
            copies = [Copy(self.tree, Path(folder).resolve() / str(number)) for number in range(self.workers)]
            if waiting:
                measured = self._measured(copies)
                self.header["failing_without_a_mutant"] = [name for name, file in measured.items() if not file.passes]
                seconds = {name: file.seconds for name, file in measured.items()}
                reach = Reach(self.tree.root, measured)

                def attempt(mutant: Mutant, copy: Copy) -> None:
                    tests = reach.tests(mutant, self.neighborhood.nearest(mutant.path))
                    outcome = _attempt(mutant, copy, tests, seconds)
                    with self._lock:
                        self.mutants[mutant.key], self.outcomes[mutant.key] = mutant, outcome
                        self._write()
                        self.report(_line(mutant, outcome, len(self.outcomes)))

                _in_copies(copies, attempt, waiting)
        return self.results()

    def _measured(self, copies: Sequence[Copy]) -> dict[str, Measured]:
        """What every test file does without a fault; kept beside the output, and taken from there."""
        path = self.output.with_suffix(".reach.json")
        if path.exists():
            kept = json.loads(path.read_text(encoding="utf-8"))
            found = {name: Measured(**file) for name, file in kept["files"].items()}
            if kept["revision"] != self.header["revision"]:
                found = {}
        else:
            found = {}

        def look(name: str, copy: Copy) -> None:
            seen = measure(copy, name)
            with self._lock:
                found[name] = seen
                files = {name: asdict(file) for name, file in found.items()}
                _write_json(path, {"revision": self.header["revision"], "files": files})
                self.report(f"[{len(found)}/{len(self.neighborhood.tests)}] {name}: {seen.seconds:.0f} s")

        _in_copies(copies, look, [name for name in self.neighborhood.tests if name not in found])
        return {name: found[name] for name in self.neighborhood.tests}

    def results(self) -> dict[str, Any]:
        """Header, counts and mutants, in the order of their places."""
        keys = sorted(self.mutants, key=lambda key: (self.mutants[key].path, self.mutants[key].start, key))
        counts = {
            status: sum(outcome.status == status for outcome in self.outcomes.values())
            for status in ("killed", "timeout", "survived")
        }
        entries = [{"key": key, **asdict(self.mutants[key]), **asdict(self.outcomes[key])} for key in keys]
        return {**self.header, **counts, "mutants": entries}

    def _write(self) -> None:
        _write_json(self.output, self.results())


def _in_copies(copies: Sequence[Copy], work: Callable[[Any, Copy], None], things: Sequence[Any]) -> None:
    """Does the work with each thing, in as many copies at a time as there are."""
    free: queue.SimpleQueue[Copy] = queue.SimpleQueue()
    for copy in copies:
        free.put(copy)

    def one(thing: Any) -> None:
        copy = free.get()
        try:
            work(thing, copy)
        finally:
            free.put(copy)

    with ThreadPoolExecutor(len(copies)) as pool:
        for done in [pool.submit(one, thing) for thing in things]:
            done.result()


def _attempt(mutant: Mutant, copy: Copy, tests: Sequence[str], seconds: Mapping[str, float]) -> Outcome:
    spent = 0.0
    with copy.with_mutant(mutant):
        for files in batches(tests, seconds):
            code, text, took = copy.tests(files, SLACK_SECONDS + 3 * sum(seconds[file] for file in files))
            spent += took
            if code not in (0, _NO_TESTS):
                status = "timeout" if code is None else "killed"
                return Outcome(status, _first_failure(code, text), round(spent, 1), len(tests))
    return Outcome("survived", None, round(spent, 1), len(tests))


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def _first_failure(code: int | None, text: str) -> str:
    if code is None:
        return "out of time"
    match = re.search(r"^(?:FAILED|ERROR) (\S.*?)(?: - .*)?$", text, re.MULTILINE)
    return match[1] if match else f"pytest's exit code {code}"


def _line(mutant: Mutant, outcome: Outcome, number: int) -> str:
    change = f"{mutant.before!r} -> {mutant.after!r}"
    return f"{number} {outcome.status} {mutant.path}:{mutant.line} {mutant.kind}: {change} ({outcome.killed_by})"


def files_of(root: Path) -> list[str]:
    """Files of a checkout that git tracks or would track, and links, of which safe_train/configs is one."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.split("\0")
    return [
        name
        for name in names
        if name and ((root / name).is_file() or (root / name).is_symlink()) and not name.startswith(LEFT_OUT[0])
    ]
