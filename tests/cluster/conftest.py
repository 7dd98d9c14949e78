"""The running cluster, for `make test-cluster`. Elsewhere its tests are skipped, each by name and with the reason."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.cluster.machine import Cluster, Machine, missing

# Read before other fixtures point the cache to a folder of the tests.
MACHINE = Machine()


def _reason() -> str | None:
    if os.environ.get("SAFE_TEST_CLUSTER") != "1":
        return "takes minutes: runs with `make test-cluster`"
    reason = missing()
    if reason is not None:
        return f"no cluster on this machine: {reason}"
    absent = [str(path) for path in (MACHINE.root, MACHINE.image) if not path.exists()]
    return f"not made yet: {', '.join(absent)}; `make test-cluster` makes them" if absent else None


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A controller, two nodes and a copy of the checkout, for all tests of the session."""
    reason = _reason()
    if reason is not None:
        pytest.skip(reason)
    running = Cluster(MACHINE, tmp_path_factory.mktemp("cluster"))
    yield running
    running.stop()
