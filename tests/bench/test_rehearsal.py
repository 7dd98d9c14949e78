"""The whole kit on the CPU, in a copy of the tree without version control."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.gpu.sources import ROOT, source_digest
from bench.gpu.steps import STEPS
from bench.gpu_report import main as report

FOLDERS = ("safe_kernels", "safe_train", "configs", "bench", "tests/kernels")
FILES = ("pyproject.toml", "tests/conftest.py", "tests/tolerances.py")

SWEPT_AHEAD: frozenset[str] = frozenset()
"""Constants that a sweep names and the kernels do not have yet."""


def copied(root: Path) -> Path:
    """What the kit needs of the tree, and nothing of git's."""
    for name in FOLDERS:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, root / name)
    return root


def rehearse(tree: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "SAFE_"))}
    command = [sys.executable, "-m", "bench.gpu_run", "--out", str(out), "--rehearse", *options]
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow  # nine processes that load torch, and models in three of them
@pytest.mark.timeout(1800)
def test_every_step_passes(tmp_path: Path) -> None:
    tree, out = copied(tmp_path / "tree"), tmp_path / "out"
    done = rehearse(tree, out)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads((out / "results.json").read_text(encoding="utf-8"))
    steps = document["steps"]
    assert {name: step["state"] for name, step in steps.items()} == {step.name: "passed" for step in STEPS}
    assert document["rehearsal"]
    assert {step["digest"] for step in steps.values()} == {source_digest(tree)}
    assert {step["commit"] for step in steps.values()} == {None}
    failed = [row for step in steps.values() for row in step["rows"] if row["outcome"] == "failed"]
    assert {row["figures"].get("sweep", row["name"]) for row in failed} == SWEPT_AHEAD
    assert report([str(out), "--output", str(tmp_path / "page")]) == 0
    again = rehearse(tree, out)
    assert again.returncode == 0
    assert again.stdout.count("done before") == len(STEPS)


def test_one_step_where_there_is_no_git(tmp_path: Path) -> None:
    tree, out = copied(tmp_path / "tree"), tmp_path / "out"
    done = rehearse(tree, out, "--only", "environment")
    assert done.returncode == 0, done.stdout + done.stderr
    steps = json.loads((out / "results.json").read_text(encoding="utf-8"))["steps"]
    assert steps["environment"]["digest"] == source_digest(tree)
    assert steps["environment"]["commit"] is None
