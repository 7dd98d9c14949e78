"""Which test files execute which lines, also in processes that they start: a fault can be seen by these alone."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from coverage import CoverageData
from coverage.exceptions import DataError

from tests.mutation.mutants import Mutant

CONFIGURATION = """[run]
branch = false
parallel = true
disable_warnings = no-data-collected, module-not-measured, module-not-imported, couldnt-parse
source = {sources}
data_file = {data}
"""
HOOK = "import coverage\n\ncoverage.process_startup()\n"
"""What each Python process of the measured tests does first."""


def prepare(folder: Path, sources: Sequence[Path]) -> dict[str, str]:
    """Writes what has processes record their lines in ``folder``.

    Args:
        folder: is made; holds the hook, the configuration and the data.
        sources: folders whose lines are recorded.

    Returns:
        Variables for the processes; ``PYTHONPATH`` is to be put before what else is in it.
    """
    (folder / "hook").mkdir(parents=True)
    (folder / "hook/sitecustomize.py").write_text(HOOK, encoding="utf-8")
    listed = "\n    ".join(["", *map(str, sources)])
    configuration = CONFIGURATION.format(sources=listed, data=folder / "data")
    (folder / "coveragerc").write_text(configuration, encoding="utf-8")
    return {"PYTHONPATH": str(folder / "hook"), "COVERAGE_PROCESS_START": str(folder / "coveragerc")}


def executed(folder: Path, root: Path) -> dict[str, list[int]]:
    """The lines that were recorded, by file relative to ``root``.

    A process that is killed while it writes leaves a file that cannot be read: nothing is known of that process, as of
    one that is killed before.
    """
    found: dict[str, set[int]] = {}
    for file in folder.glob("data*"):
        data = CoverageData(str(file))
        try:
            data.read()
        except DataError:
            continue
        for measured in data.measured_files():
            name = Path(measured).relative_to(root).as_posix()
            found.setdefault(name, set()).update(data.lines(measured) or [])
    return {name: sorted(lines) for name, lines in sorted(found.items()) if lines}


@dataclass(frozen=True)
class Measured:
    """A test file without a fault.

    Attributes:
        seconds: how long it takes.
        passes: whether all its tests do.
        lines: what it executes, by source file.
    """

    seconds: float
    passes: bool
    lines: dict[str, list[int]]


class Reach:
    """From a fault to the test files that can see it, those that are likely to find it soon first.

    Args:
        root: of the tree.
        measured: every test file.
    """

    def __init__(self, root: Path, measured: Mapping[str, Measured]) -> None:
        self._root, self._measured = root, measured
        self._functions: dict[str, list[tuple[int, int]]] = {}

    def tests(self, mutant: Mutant, nearest: Sequence[str]) -> list[str]:
        """The test files that execute a line of the fault's function, the nearest first, then the quickest.

        A fault outside of functions is seen by every file that imports the module. Lines that nothing records, such as
        those of kernels that are compiled, are left to the nearest files.
        """
        inside = self._lines_of(mutant)
        passing = {name: file for name, file in self._measured.items() if file.passes}
        reached = [name for name, file in passing.items() if inside & set(file.lines.get(mutant.path, ()))]
        if not reached:
            return [name for name in nearest if name in passing]
        near = [name for name in nearest if name in reached]
        return near + sorted(set(reached) - set(near), key=lambda name: passing[name].seconds)

    def _lines_of(self, mutant: Mutant) -> set[int]:
        """Of the innermost function's body, or of the whole file."""
        if mutant.path not in self._functions:
            source = (self._root / mutant.path).read_text(encoding="utf-8")
            self._functions[mutant.path] = [
                (node.body[0].lineno, node.end_lineno or node.lineno)
                for node in ast.walk(ast.parse(source))
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            ]
        around = [(first, last) for first, last in self._functions[mutant.path] if first <= mutant.line <= last]
        first, last = min(around, key=lambda span: span[1] - span[0], default=(1, 10**9))
        return set(range(first, min(last, 10**5) + 1))


def batches(tests: Sequence[str], seconds: Mapping[str, float], first: float = 60.0) -> list[list[str]]:
    """The files in order, in groups that take ``first`` seconds, twice as many, four times as many and so on.

    A fault that is found soon costs one start of pytest, and tests that never end are stopped after the time of a
    group and not of all.
    """
    found: list[list[str]] = []
    room, limit = 0.0, first
    for name in tests:
        if not found or (room + seconds[name] > limit and found[-1]):
            limit = first * 2 ** len(found)
            found.append([])
            room = 0.0
        found[-1].append(name)
        room += seconds[name]
    return found
