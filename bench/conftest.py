"""Benchmark options: `small` runs by default; `full` needs a GPU and is asked for by `-m full`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
import torch

from bench.rehearsal import rehearsing

BROKEN = "SAFE_BENCH_BROKEN"
"""A JSON object: each operation whose native call failed, and how. It is not worth timing."""

ON_GPU = ("full", "sweep", "stage_a", "profile")
"""Marks of what needs a GPU."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a GPU and what is slow unless marks are asked for, and skip what is known to fail."""
    broken = json.loads(os.environ.get(BROKEN, "{}"))
    for item in items:
        for name in (name for marker in item.iter_markers("operation") for name in marker.args if name in broken):
            item.add_marker(pytest.mark.skip(reason=f"{name}: its call at a native size failed: {broken[name]}"))
    if config.getoption("markexpr"):
        return
    left_out = [item for item in items if any(item.get_closest_marker(name) for name in (*ON_GPU, "slow"))]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    """The GPU for what is marked so, the CPU for `small` and in a rehearsal."""
    on_gpu = any(request.node.get_closest_marker(name) for name in ON_GPU)
    if not on_gpu or rehearsing():
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("the full sizes need a GPU")
    return torch.device("cuda")


@pytest.fixture(autouse=True)
def seed() -> None:
    """Fix torch's random numbers."""
    torch.manual_seed(20240607)


@pytest.fixture(autouse=True)
def figures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Hand a benchmark's figures to whoever records the tests, also where the process is killed later."""
    benchmark = request.getfixturevalue("benchmark") if "benchmark" in request.fixturenames else None
    yield
    if benchmark is not None:
        request.node.user_properties.extend(benchmark.extra_info.items())


@pytest.fixture(autouse=True)
def freed_memory() -> Iterator[None]:
    """Blocks that the allocator keeps for the next size are of no use to it."""
    yield
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
