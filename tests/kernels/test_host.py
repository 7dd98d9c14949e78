"""The measurement of time on the host: what it leaves out, and that it measures something."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

# Defined before `measure` asks for the interpreter, on a GPU compiled.
import safe_kernels.ewc_penalty.triton_impl
import safe_kernels.project_null_space.triton_impl
import safe_kernels.squared_gradient_ema.triton_impl  # noqa: F401
from bench import host
from safe_kernels import _triton


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """`measure` sets the backend for its process."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def test_every_operation_is_timed_as_a_function_and_prepared() -> None:
    found = host.measure(count=3, repeats=1)
    ways: dict[str, set[str]] = {}
    for time in found:
        ways.setdefault(time.operation, set()).add(time.way)
        assert time.seconds > 0
        assert time.tensors == 3
    assert set(ways) == {"ewc_penalty_", "squared_gradient_ema_", "project_null_space_"}
    assert all({"function", "plan"} <= found_ways for found_ways in ways.values())
    assert {"plan, new gradients", "plan, gradients elsewhere"} <= ways["ewc_penalty_"]
    assert "| `ewc_penalty_` | plan | 3 |" in host.table(found)


def test_launches_are_left_out_and_come_back() -> None:
    launch = _triton.launch
    with host.launches_left_out() as counted:
        _triton.launch(None, 1)
        assert counted == [1]
    assert _triton.launch is launch


def test_a_call_that_launches_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: a path that never reaches the kernels would be fast."""
    monkeypatch.setattr(host, "calls", lambda *_: {("ewc_penalty_", "plan"): host.Call(lambda: None)})
    with pytest.raises(RuntimeError, match="expected a launch, got none"):
        host.measure(count=1, repeats=1)
