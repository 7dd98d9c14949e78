"""Files compared bit for bit, and read to be changed."""

import filecmp
import json

from safe_train.io.fingerprints import file_sha256


def assert_same_bytes(path, expected):
    """Fails with the paths alone: pytest's own explanation of megabytes that differ would take hours."""
    assert filecmp.cmp(path, expected, shallow=False), f"{path} differs from {expected}"


def results_of(path):
    """What an evaluation's JSON file says, without the digest by which a change would be found out."""
    return {name: value for name, value in json.loads(path.read_text()).items() if name != "sha256"}


def drop_keys(checkpoint, name, *keys):
    """Takes keys out of a checkpoint's file, as if an earlier version had written it."""
    path = checkpoint / name
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key not in keys}))
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
