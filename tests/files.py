"""Files compared bit for bit, and read to be changed."""

import filecmp
import json


def assert_same_bytes(path, expected):
    """Fails with the paths alone: pytest's own explanation of megabytes that differ would take hours."""
    assert filecmp.cmp(path, expected, shallow=False), f"{path} differs from {expected}"


def results_of(path):
    """What an evaluation's JSON file says, without the digest by which a change would be found out."""
    return {name: value for name, value in json.loads(path.read_text()).items() if name != "sha256"}
