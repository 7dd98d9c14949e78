"""The folder for what can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """``$SAFE_CACHE``, by default ``~/.cache/safe`` or its like under ``$XDG_CACHE_HOME``."""
    root = os.environ.get("SAFE_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "safe"
    return Path(root).expanduser()
