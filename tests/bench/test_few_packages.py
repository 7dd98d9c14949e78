"""The kernels' tests and benchmarks run with torch, triton, pytest and few others: a GPU's machine may have no more."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ABSENT = (
    "pydantic", "pydantic_core", "soundfile", "cffi", "transformers", "tokenizers", "safetensors", "accelerate", "peft",
    "sklearn", "scipy", "PIL", "matplotlib", "click", "rich", "yaml", "jinja2", "liger_kernel", "fla", "opacus",
)  # fmt: skip

PROGRAM = f"""
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in {ABSENT!r} else super().find_spec(name, path, target)

sys.meta_path[:] = [Without if finder is PathFinder else finder for finder in sys.meta_path]
import pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


def pytest_without_them(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["SAFE_GPU_REHEARSAL"] = "1"
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False, env=environment
    )


@pytest.mark.parametrize(
    "arguments", [("tests/kernels",), ("bench", "-m", "full"), ("bench/test_sweeps.py", "-m", "sweep")], ids=str
)
def test_everything_is_collected(arguments: tuple[str, ...]) -> None:
    done = pytest_without_them("--collect-only", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "error" not in done.stdout.lower().splitlines()[-1]


def test_tests_run() -> None:
    done = pytest_without_them("tests/kernels/test_elementary.py", "tests/kernels/native/test_operations.py")
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_needs_the_trainer_is_skipped_by_name() -> None:
    done = pytest_without_them("-rs", "bench/test_stage_a.py", "bench/test_llava.py", "-m", "full or stage_a")
    assert "the trainer needs pydantic" in done.stdout, done.stdout + done.stderr
    assert "error" not in done.stdout.lower().splitlines()[-1]


def test_the_packages_are_absent() -> None:
    """Negative control: a test of the trainer cannot be collected."""
    done = pytest_without_them("--collect-only", "tests/test_config.py")
    assert done.returncode != 0
    assert "No module named 'pydantic'" in done.stdout
