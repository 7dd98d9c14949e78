"""Time of a call on the device and time of the same call on the host, told apart.

Events around a call on an idle stream measure the longer of the two: the device waits for the host between launches.
Here the stream is first held by a kernel that only spins, the calls are queued behind it, and their events are read
afterwards: the device then goes from one to the next without waiting for anybody. The host's time is that until a call
returns on an empty queue, in which a launch never blocks.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch

_LONGEST_HOLD = 1.0
"""Seconds that the stream is held at most."""

_ATTEMPTS = 4
_CYCLES_A_SECOND = 2e9
"""Of a GPU's clock, at most; a slower one holds the stream longer, which does no harm."""


class Queue(Protocol):
    """A device that works through what it is given, in order."""

    def hold(self, seconds: float) -> None:
        """Gives it nothing useful to do for at least about so long."""
        ...

    def mark(self) -> Any:
        """Queues a mark."""
        ...

    def reached(self, mark: Any) -> bool:
        """Whether the device has come to a mark."""
        ...

    def seconds(self, first: Any, second: Any) -> float:
        """Time on the device between two marks that it has come to."""
        ...

    def synchronize(self) -> None:
        """Waits until everything is done."""
        ...


class CudaQueue:
    """The current stream of a GPU."""

    def hold(self, seconds: float) -> None:
        """A kernel that spins."""
        torch.cuda._sleep(int(seconds * _CYCLES_A_SECOND))

    def mark(self) -> torch.cuda.Event:
        """An event."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def reached(self, mark: torch.cuda.Event) -> bool:
        """Whether it is recorded."""
        return mark.query()

    def seconds(self, first: torch.cuda.Event, second: torch.cuda.Event) -> float:
        """Between two events."""
        return first.elapsed_time(second) / 1e3

    def synchronize(self) -> None:
        """Waits for all streams."""
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Timing:
    """Of one call.

    Attributes:
        device: seconds on the device, median.
        host: seconds until the call returns, median.
        device_waits: whether the host could not be kept ahead of the device, since the call synchronizes or launches
            more than the queue holds; `device` then contains time on the host.
    """

    device: float
    host: float
    device_waits: bool


def time_call(
    function: Callable[[], Any], calls: int, queue: Queue, clock: Callable[[], float] = time.perf_counter
) -> Timing:
    """Times a call that has run before, on the device and on the host.

    Args:
        function: the call.
        calls: how many are queued, and how many are timed on the host.
        queue: the device.
        clock: the host's.
    """
    host = statistics.median(_host_seconds(function, calls, queue, clock))
    found, waited = _queued(function, calls, host, queue)
    for attempt in range(1, _ATTEMPTS):
        if waited:  # the queue may not hold so many
            found, waited = _queued(function, max(1, calls >> attempt), host, queue)
    return Timing(statistics.median(found), host, device_waits=waited)


def _host_seconds(function: Callable[[], Any], calls: int, queue: Queue, clock: Callable[[], float]) -> list[float]:
    found = []
    for _ in range(calls):
        queue.synchronize()
        start = clock()
        function()
        found.append(clock() - start)
    queue.synchronize()
    return found


def _queued(function: Callable[[], Any], calls: int, host: float, queue: Queue) -> tuple[list[float], bool]:
    """Device time of each call queued behind a held stream, and whether it was not held for long enough."""
    queue.synchronize()
    queue.hold(min(_LONGEST_HOLD, 2.0 * calls * host + 1e-3))
    marks = [queue.mark()]
    for _ in range(calls):
        function()
        marks.append(queue.mark())
    waited = queue.reached(marks[0])
    queue.synchronize()
    return [queue.seconds(first, second) for first, second in pairwise(marks)], waited
