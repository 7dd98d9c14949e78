"""Each test's row: outcome, message and figures, also of several processes and of files that cannot be collected."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.gpu.rows import RowWriter, read_rows
from bench.gpu.sources import ROOT

TESTS = """
import warnings
import pytest

def test_good(record_property):
    record_property("seconds", 2.5)

def test_bad():
    assert 1 == 2, "one is not two"

@pytest.mark.skip(reason="there is no GPU")
def test_skipped():
    pass

def test_warning():
    warnings.warn("look here")
"""


def rows_of(folder: Path, tests: str, *options: str) -> dict[str, Any]:
    path = folder / "test_made.py"
    path.write_text(tests, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"SAFE_GPU_ROWS": str(folder / "rows"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "bench.gpu.recorder", "-p", "no:cacheprovider", *options]
    subprocess.run([*command, str(path)], cwd=folder, env=environment, capture_output=True, check=False)
    return {row["name"].split("::")[-1]: row for row in read_rows(folder / "rows")}


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["alone", "two processes"])
def test_rows_of_tests(tmp_path: Path, options: tuple[str, ...]) -> None:
    rows = rows_of(tmp_path, TESTS, *options)
    outcomes = {name: row["outcome"] for name, row in rows.items()}
    assert outcomes == {
        "test_good": "passed", "test_bad": "failed", "test_skipped": "skipped", "test_warning": "passed",
        "warnings": "passed",
    }  # fmt: skip
    assert rows["test_good"]["figures"] == {"seconds": 2.5}
    assert "one is not two" in rows["test_bad"]["message"]
    assert rows["test_skipped"]["message"] == "there is no GPU"
    (text,) = rows["warnings"]["figures"]["warnings"]
    assert text == "UserWarning: look here"


def test_a_file_that_cannot_be_collected_has_a_row(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, "import no_such_module").values()
    assert row["outcome"] == "failed"
    assert "no_such_module" in row["message"]


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    RowWriter(path).add("whole", "passed", {"figure": 1}, seconds=1.0)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"name": "cut o')
    assert [row["name"] for row in read_rows(path)] == ["whole"]
