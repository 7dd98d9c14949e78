"""Steps on a GPU are timed from an idle device to an idle device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("pydantic")

from bench.stages import configuration, stage_on, step_parts, step_seconds
from safe_train.training.build import load_base_model


def test_the_device_is_idle_before_and_after_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: done.append("wait"))
    arms = {"a": lambda: done.append("a"), "b": lambda: done.append("b")}
    found = step_seconds(arms, 2, torch.device("cuda"))
    first_calls, timed = done[:2], done[2:]
    assert first_calls == ["a", "b"]
    assert timed == ["wait", "a", "wait", "wait", "b", "wait"] * 2
    assert {name: len(seconds) for name, seconds in found.items()} == {"a": 2, "b": 2}


def test_parts_of_a_step_add_up(small_data: Path) -> None:
    """Each part once, and together no more than the step, which is itself taken whole."""
    config = configuration(small_data, variant="full_retention")
    stage = stage_on(load_base_model(config), config)
    train_step = stage.train_step
    for _ in range(3):
        stage.train_step(measure=False)
    found = step_parts(stage, 1)
    assert set(found) == {"data", "audio pass", "protected pass", "mechanisms", "optimizer", "together"}
    assert 0.5 * found["together"] < sum(found.values()) - found["together"] <= found["together"]
    assert stage.step == 4
    assert stage.train_step == train_step
