"""The trackers' own packages, for `make test-trackers`; elsewhere their tests are skipped, by name, with the reason."""

import os

import pytest

from tests.trackers.packages import folder

# Read before other fixtures point the cache to a folder of the tests.
PACKAGES = folder()


@pytest.fixture(scope="session")
def packages():
    """Where they are installed."""
    if os.environ.get("SAFE_TEST_TRACKERS") != "1":
        pytest.skip("downloads 0.1 GB once: runs with `make test-trackers`")
    if not (PACKAGES / "complete").exists():
        pytest.skip(f"not installed in {PACKAGES}; `make test-trackers` does it")
    return PACKAGES
