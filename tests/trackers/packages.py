"""Installs the experiment trackers once, in a folder beside the environment: ``python -m tests.trackers.packages``."""

import hashlib
import os
import shutil
import sys
from pathlib import Path

from scripts.make_venv import PIP, ROOT, locked, run

LOCK = ROOT / "requirements/trackers.txt"


def folder():
    """Where the packages are, or will be: by their versions and this Python's."""
    key = hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()[:16]
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "safe"
    return Path(os.environ.get("SAFE_CACHE") or default).absolute() / f"trackers-{key}"


def install():
    """Installs them if they are not there."""
    target = folder()
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.with_name(f"{target.name}.lock")):
        if not (target / "complete").exists():
            print(f"Installing experiment trackers into {target} (0.1 GB)", flush=True)
            shutil.rmtree(target, ignore_errors=True)
            # Without dependencies: pip does not know the override with which they were resolved.
            run(sys.executable, *PIP, "--no-deps", "--require-hashes", "--target", target, "-r", LOCK)
            (target / "complete").touch()


if __name__ == "__main__":
    install()
