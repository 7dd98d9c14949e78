"""Kernels of each operation at a native size, by PyTorch's profiler, and hardware counters where ncu is there."""

from __future__ import annotations

import csv
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from bench.gpu.cases import Case, everyday_cases
from bench.gpu.profiler import kernel_table

pytestmark = pytest.mark.profile

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
METRICS = (
    "gpu__time_duration.sum",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed",
    "sm__inst_executed_pipe_tensor.sum",
    "launch__registers_per_thread",
    "sm__warps_active.avg.pct_of_peak_sustained_active",
)
KERNELS = "regex:(fisher|ewc|squared_gradient|logits|difference|projection|flat|rows)"
LIMIT = 40
"""Seconds for ncu, which runs a kernel once a group of counters."""


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=pytest.mark.operation(c.operation), id=f"{c.operation} {c.name}") for c in everyday_cases()],
)
def test_kernels(device: torch.device, case: Case, dtype: str, record_property: Callable[[str, Any], None]) -> None:
    """Calls and microseconds of each kernel of a call."""
    inputs = case.make(device, DTYPES[dtype])
    case.call(inputs)
    record_property("profile", f"{case.operation}, {case.name}, {dtype}")
    record_property("kernels", kernel_table(lambda: case.call(inputs), device, 8))


def test_counters(device: torch.device, record_property: Callable[[str, Any], None]) -> None:
    """Time, throughput, tensor instructions, registers and occupancy of our kernels."""
    if device.type != "cuda":
        pytest.skip("hardware counters need a GPU")
    program = shutil.which("ncu")
    if program is None:
        pytest.skip("ncu is not installed")
    options = ["--csv", "--clock-control", "none", "--metrics", ",".join(METRICS), "--kernel-name", KERNELS]
    done = subprocess.run(
        [program, *options, "--launch-count", "24", sys.executable, "-m", "bench.gpu.everyday"],
        capture_output=True, text=True, check=False, timeout=LIMIT, env=dict(os.environ),
    )  # fmt: skip
    found = counters(done.stdout)
    assert found, (done.stdout + done.stderr)[-1500:]
    record_property("counters", found)


def counters(output: str) -> list[dict[str, str]]:
    """A kernel launch each, with its metrics, from what ncu prints as CSV after lines of its own."""
    lines = output.split("\n")
    first = next((number for number, line in enumerate(lines) if line.startswith('"ID"')), None)
    if first is None:
        return []
    launches: dict[str, dict[str, str]] = {}
    for row in csv.DictReader(io.StringIO("\n".join(lines[first:]))):
        launch = launches.setdefault(row["ID"], {"kernel": row["Kernel Name"]})
        launch[row["Metric Name"]] = f"{row['Metric Value']} {row['Metric Unit']}".strip()
    return list(launches.values())
