"""Which faults are tried, and which test files are nearest to one."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path, PurePosixPath

from tests.mutation.mutants import Mutant, mutants_of

AREAS = {
    "safe_kernels": ("safe_kernels",),
    "retention": ("safe_train/retention",),
    "stage_a": ("safe_train/training/trainer.py",),
    "metrics": ("safe_train/metrics",),
    "evaluation": ("safe_train/evaluation",),
    "data": ("safe_train/audio", "safe_train/data"),
}
"""What is mutated: names and the folders or files behind them."""

MIRRORS = {
    "safe_kernels": "tests/kernels",
    "safe_train/retention": "tests/retention",
    "safe_train/training": "tests/training",
    "safe_train/metrics": "tests/metrics",
    "safe_train/evaluation": "tests/evaluation",
    "safe_train/audio": "tests/audio",
    "safe_train/data": "tests/data",
}
"""Where the tests of a folder or file lie."""

LEFT_OUT = ("tests/cluster", "tests/mutation")
"""Tests that no mutant is given to: a cluster of its own, and those of this runner."""


def draw(root: Path, areas: Mapping[str, Sequence[str]], seed: int, count: int) -> list[Mutant]:
    """`count` mutants, as many from each area while it has any; of an area, file by file and kind by kind in turns.

    Those of a smaller count are the first of a larger one.
    """
    turns = [_of_area(root, places, random.Random(f"{seed} {name}")) for name, places in areas.items()]
    return list(_in_turns(turns))[:count]


def _of_area(root: Path, places: Sequence[str], generator: random.Random) -> list[Mutant]:
    files = [file for place in places for file in _python_files(root / place)]
    generator.shuffle(files)
    queues = []
    for file in files:
        kinds: dict[str, list[Mutant]] = {}
        for mutant in mutants_of(file.relative_to(root).as_posix(), file.read_text(encoding="utf-8")):
            kinds.setdefault(mutant.kind, []).append(mutant)
        for of_kind in kinds.values():
            generator.shuffle(of_kind)
        order = list(kinds.values())
        generator.shuffle(order)
        queues.append(list(_in_turns(order)))
    return list(_in_turns(queues))


def _in_turns(queues: Sequence[Sequence[Mutant]]) -> Iterator[Mutant]:
    for turn in zip_longest(*queues):
        yield from (mutant for mutant in turn if mutant is not None)


def _python_files(place: Path) -> list[Path]:
    return [place] if place.is_file() else sorted(place.rglob("*.py"))


class Neighborhood:
    """The test files of a tree, and the modules of the tree that each of them names.

    A name that a package hands on counts for the module that defines it: ``from safe_kernels import kl_divergence``
    is an import of ``safe_kernels/kl/__init__.py``.
    """

    def __init__(self, root: Path, mirrors: Mapping[str, str] = MIRRORS) -> None:
        self.root, self.mirrors = root, mirrors
        files = sorted(path.relative_to(root).as_posix() for path in (root / "tests").rglob("test_*.py"))
        self.tests = [file for file in files if not file.startswith(LEFT_OUT)]
        self._imports = {test: self._named(test) for test in self.tests}

    def nearest(self, path: str) -> list[str]:
        """Test files of a module, nearest first.

        Those of the mirrored folder that are called after it, that import it, and that import what lies beside it; then
        those that import it from elsewhere. Of a module that none of these knows, all files of the mirrored folder.

        Where a folder of tests mirrors the module's own folder, its files come first: there is a file of that name in
        other folders, too.
        """
        folder = str(PurePosixPath(path).parent)
        mirror = self._mirror(path)
        stem = PurePosixPath(path).stem.strip("_")
        inside = [test for test in self.tests if mirror and test.startswith(f"{mirror}/")]
        direct = [test for test in self.tests if path in self._imports[test]]
        of_folder = f"{mirror}/{PurePosixPath(folder).name}/"
        own = [test for test in inside if test.startswith(of_folder)]
        called = [test for test in own or inside if stem in PurePosixPath(test).stem]
        beside = [
            test for test in inside if any(str(PurePosixPath(name).parent) == folder for name in self._imports[test])
        ]
        near = [test for test in direct if test in inside]
        return list(dict.fromkeys([*called, *own, *near, *beside, *direct])) or inside

    def _mirror(self, path: str) -> str | None:
        fitting = [place for place in self.mirrors if path == place or path.startswith(f"{place}/")]
        return self.mirrors[max(fitting, key=len)] if fitting else None

    def _named(self, file: str) -> set[str]:
        found: set[str] = set()
        for node in ast.walk(ast.parse((self.root / file).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {module for alias in node.names if (module := self._module(alias.name))}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found |= {name for alias in node.names if (name := self._defining(node.module, alias.name))}
        return found

    def _module(self, name: str) -> str | None:
        """The file of a module of the tree, links followed; None for others."""
        plain = name.replace(".", "/")
        files = (self.root / f"{plain}.py", self.root / plain / "__init__.py")
        found = next((file for file in files if file.is_file()), None)
        return None if found is None else found.resolve().relative_to(self.root.resolve()).as_posix()

    def _defining(self, module: str, name: str) -> str | None:
        """The file that defines what is imported from a module, through packages that hand it on."""
        if file := self._module(f"{module}.{name}"):
            return file
        file = self._module(module)
        if file is None or not file.endswith("__init__.py"):
            return file
        for node in ast.parse((self.root / file).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and node.module and node.module != module:
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        return self._defining(node.module, alias.name)
        return file
