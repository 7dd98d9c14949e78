"""Versions that results depend on."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import pytest
import torch

from safe_train.io import fingerprints as digests


def test_a_source_tree_that_is_not_installed_can_be_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_safe_audio(package: str) -> str:
        if package == "safe-audio":
            raise PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(digests, "version", without_safe_audio)
    found = digests.versions()
    assert found["safe-audio"] == "not installed"
    assert found["torch"] == torch.__version__.partition("+")[0] or found["torch"] == torch.__version__
