"""The real models and data, for `make test-real`. Elsewhere their tests are skipped, by name and with the reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from safe_train.io.cache import cache_root

# Read before other fixtures point the cache to a folder of the tests.
CACHE = cache_root()


def _reason() -> str | None:
    if os.environ.get("SAFE_TEST_REAL") != "1":
        return "downloads 0.5 GB once: runs with `make test-real`"
    absent = [name for name in ("base", "audio_encoder", "data") if not (CACHE / "real" / name).is_dir()]
    return f"not made yet: {', '.join(absent)} in {CACHE / 'real'}; `make test-real` makes them" if absent else None


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> Path:
    """``$SAFE_CACHE/real`` of the user, who has made the models and data."""
    reason = _reason()
    if reason is not None:
        pytest.skip(reason)
    monkeypatch.setenv("SAFE_CACHE", str(CACHE))
    return CACHE / "real"
