"""Where the time of a call goes, by kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

_LONGEST_NAME = 160


def kernel_table(function: Callable[[], Any], device: torch.device, count: int | None = 30) -> list[dict[str, Any]]:
    """The kernels (on a CPU: the operators) that a call spends most time in, with calls and microseconds of each.

    Args:
        function: a call that has run before.
        device: where it runs.
        count: so many rows at most; None for all.
    """
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities, acc_events=True) as recorded:
        function()
        if on_gpu:
            torch.cuda.synchronize(device)
    events: list[Any] = list(recorded.key_averages())
    if on_gpu:  # of operators and the kernels that they launch, the kernels
        events = [event for event in events if event.device_type == DeviceType.CUDA]

    def microseconds(event: Any) -> float:
        return event.self_device_time_total if on_gpu else event.self_cpu_time_total

    found = sorted(events, key=microseconds, reverse=True)
    return [
        {"kernel": event.key[:_LONGEST_NAME], "calls": event.count, "microseconds": round(microseconds(event), 1)}
        for event in (found if count is None else found[:count])
    ]


def microseconds_of(table: list[dict[str, Any]]) -> float:
    """Of all kernels of a whole table: time that the device is busy, as long as no two run at once."""
    return sum(row["microseconds"] for row in table)
