"""What the machine and its software are."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bench.gpu.rows import RowWriter
from bench.rehearsal import interpreter_obstacle, rehearsing
from safe_kernels import backend_info

PACKAGES = (
    "torch", "triton", "transformers", "numpy", "pytest", "pytest-xdist", "pytest-timeout", "pytest-benchmark",
    "hypothesis", "mpmath", "accelerate", "peft", "scipy", "scikit-learn", "pillow", "matplotlib", "pydantic",
    "soundfile", "liger-kernel", "fla-core", "einops",
)  # fmt: skip

_QUERY = "name,driver_version,memory.total,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu"


def packages() -> dict[str, str | None]:
    """Version of each package, None where it is missing."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def gpu() -> dict[str, Any]:
    """The GPU as PyTorch and the driver describe it."""
    properties = torch.cuda.get_device_properties(0)
    driver = _said("nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader")
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "cache": getattr(properties, "L2_cache_size", None),
        "count": torch.cuda.device_count(),
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "cudnn": torch.backends.cudnn.version(),
        "backend": backend_info().name,
        "reason": backend_info().reason,
        **dict(zip(_QUERY.split(","), driver, strict=False)),
    }


def tools() -> dict[str, str]:
    """First or last line of what compilers and the profiler say of themselves."""
    commands = {"cc": ("cc", "--version"), "nvcc": ("nvcc", "--version"), "ncu": ("ncu", "--version")}
    header = Path(sysconfig.get_path("include"), "Python.h")  # what Triton compiles its launchers with
    said = {name: " ".join(_said(*command))[:300] for name, command in commands.items()}
    return said | {"Python.h": "there" if header.is_file() else f"missing in {header.parent}"}


def _said(program: str, *arguments: str) -> list[str]:
    """What a program prints, at its commas; one entry saying so where it is missing."""
    if shutil.which(program) is None:
        return ["not installed"]
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=20)
    return [part.strip() for part in " ".join(done.stdout.split("\n")).split(",")]


def main() -> int:
    """Writes a row each for the software, the tools and the GPU; fails where there should be a GPU and is none."""
    rows = RowWriter()
    software: dict[str, Any] = {"python": sys.version.split()[0], "platform": platform.platform()}
    software |= {"processors": torch.get_num_threads(), "interpreter": interpreter_obstacle() or "runs"}
    rows.add("software", "passed", software | packages())
    rows.add("tools", "passed", tools())
    if torch.cuda.is_available():
        rows.add("gpu", "passed", gpu())
        return 0
    reason = "a rehearsal runs on the CPU" if rehearsing() else "torch finds no GPU; --rehearse runs on the CPU"
    rows.add("gpu", "skipped" if rehearsing() else "failed", message=reason)
    return 0 if rehearsing() else 1


if __name__ == "__main__":
    sys.exit(main())
