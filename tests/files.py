"""Comparison of files bit for bit."""

import filecmp


def assert_same_bytes(path, expected):
    """Fails with the paths alone: pytest's own explanation of megabytes that differ would take hours."""
    assert filecmp.cmp(path, expected, shallow=False), f"{path} differs from {expected}"
