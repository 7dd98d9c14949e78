"""Processes that are started as torchrun starts them, on one machine, and small data for them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE, DEADLINE = 240, 800  # seconds: a process waits for another, a test for its processes


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int
    out: str
    err: str


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def environment(rank: int, world_size: int, port: int, launcher: str) -> dict[str, str]:
    """What torchrun or srun tells a process."""
    if launcher == "torchrun":
        place = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": rank}
    else:
        place = {"SLURM_PROCID": rank, "SLURM_NTASKS": world_size, "SLURM_LOCALID": rank, "SLURM_STEP_ID": 0}
    return {name: str(value) for name, value in place.items()} | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "SAFE_TIMEOUT": str(PATIENCE),
        "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT),
    }  # fmt: skip


def start(
    arguments: Sequence[object], world_size: int = 2, launcher: str = "torchrun", **more: str
) -> list[subprocess.Popen[str]]:
    """Starts ``python ARGUMENTS`` as so many processes."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            text=True,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | environment(rank, world_size, port, launcher) | more,
        )
        for rank in range(world_size)
    ]


def ends(started: Sequence[subprocess.Popen[str]]) -> list[Ended]:
    """Waits for the processes, in the order of their ranks."""
    try:
        outputs = [process.communicate(timeout=DEADLINE) for process in started]
    finally:
        for process in started:
            process.kill()
    return [Ended(process.returncode, *output) for process, output in zip(started, outputs, strict=True)]


@pytest.fixture(scope="session")
def run_all() -> Callable[..., list[Ended]]:
    """Runs ``python ARGUMENTS`` as two processes, both of which must end well."""

    def run(*arguments: object, **how: str) -> list[Ended]:
        ended = ends(start(arguments, **how))
        assert [process.code for process in ended] == [0, 0], ended
        return ended

    return run


@pytest.fixture(scope="session")
def settings(small_data: Path) -> dict[str, str]:
    """Short steps on five examples per batch, which two processes cannot share evenly."""
    return {
        "data.root": str(small_data), "optimization.max_steps": "8", "optimization.audio_batch_size": "5",
        "optimization.vl_batch_size": "5", "optimization.gate_warmup_ratio": "0", "checkpoint_every": "4",
        "retention.fisher_samples": "10", "log_every": "1",
    }  # fmt: skip
