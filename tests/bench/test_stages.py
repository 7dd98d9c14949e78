"""Steps on a GPU are timed from an idle device to an idle device."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("pydantic")

from bench.stages import step_seconds


def test_the_device_is_idle_before_and_after_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: done.append("wait"))
    arms = {"a": lambda: done.append("a"), "b": lambda: done.append("b")}
    found = step_seconds(arms, 2, torch.device("cuda"))
    assert done == ["wait", "a", "wait", "wait", "b", "wait"] * 2
    assert {name: len(seconds) for name, seconds in found.items()} == {"a": 2, "b": 2}
