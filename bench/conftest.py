"""Benchmark options: `small` runs by default; `full` needs a GPU and is asked for by `-m full`."""

from __future__ import annotations

import pytest
import torch


def pytest_configure(config: pytest.Config) -> None:
    """Declare the sizes."""
    config.addinivalue_line("markers", "small: sizes for a CPU, less than five minutes in all; the default")
    config.addinivalue_line("markers", "full: sizes of the published tables; needs a GPU")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out `full` and `slow` unless a marker expression was given."""
    if config.getoption("markexpr"):
        return
    left_out = [item for item in items if item.get_closest_marker("full") or item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    """The GPU for `full`, the CPU for `small`."""
    if request.node.get_closest_marker("full") is None:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("the full sizes need a GPU")
    return torch.device("cuda")


@pytest.fixture(autouse=True)
def seed() -> None:
    """Fix torch's random numbers."""
    torch.manual_seed(20240607)
