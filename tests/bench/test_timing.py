"""Time on the device and on the host are told apart, shown on a device of known speed that needs no GPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.timing import Timing, time_call

UNLIMITED = 10**9


class SimulatedGpu:
    """A host and a device with clocks of their own: each call costs both of them a known time."""

    def __init__(self, *, host: float, device: float, launches: int = 1, depth: int = UNLIMITED) -> None:
        self.host, self.device, self.launches, self.depth = host, device, launches, depth
        self.now = 0.0  # on the host
        self.ends: list[float] = []  # when the device is done with each thing it was given

    def clock(self) -> float:
        return self.now

    def _give(self, seconds: float) -> float:
        pending = sum(end > self.now for end in self.ends[-self.depth :])
        if pending >= self.depth:  # the queue is full: the host waits for a place in it
            self.now = self.ends[-self.depth]
        start = max(self.now, self.ends[-1] if self.ends else 0.0)
        self.ends.append(start + seconds)
        return self.ends[-1]

    def call(self) -> None:
        for _ in range(self.launches):
            self.now += self.host / self.launches
            self._give(self.device / self.launches)

    def waiting_call(self) -> None:
        self.call()
        self.synchronize()

    def hold(self, seconds: float) -> None:
        self._give(seconds)

    def mark(self) -> float:
        return self._give(0.0)

    def reached(self, mark: float) -> bool:
        return mark <= self.now

    def seconds(self, first: float, second: float) -> float:
        return second - first

    def synchronize(self) -> None:
        self.now = max(self.now, self.ends[-1]) if self.ends else self.now


def timed(gpu: SimulatedGpu, function: Callable[[], None] | None = None, calls: int = 8) -> Timing:
    return time_call(function or gpu.call, calls, gpu, gpu.clock)


@pytest.mark.parametrize(("host", "device"), [(4e-3, 0.7e-3), (0.1e-3, 40e-3), (1e-3, 1e-3)])
def test_neither_time_counts_in_the_other(host: float, device: float) -> None:
    found = timed(SimulatedGpu(host=host, device=device))
    assert found.device == pytest.approx(device)
    assert found.host == pytest.approx(host)
    assert not found.device_waits


def test_events_on_an_idle_stream_measure_the_host() -> None:
    """Negative control: the wrong method gives 4 ms for 0.7 ms of work."""
    gpu = SimulatedGpu(host=4e-3, device=0.7e-3)
    start = gpu.mark()
    gpu.call()
    assert gpu.seconds(start, gpu.mark()) > 4e-3


def test_a_call_that_waits_for_the_device_is_told() -> None:
    gpu = SimulatedGpu(host=1e-3, device=2e-3)
    assert timed(gpu, gpu.waiting_call).device_waits


def test_fewer_calls_are_queued_where_the_queue_is_short() -> None:
    """8 calls of 100 launches do not fit into a queue of 256."""
    found = timed(SimulatedGpu(host=4e-3, device=0.7e-3, launches=100, depth=256))
    assert found.device == pytest.approx(0.7e-3)
    assert not found.device_waits


def test_more_launches_than_the_queue_holds_are_told() -> None:
    assert timed(SimulatedGpu(host=4e-3, device=0.7e-3, launches=400, depth=256)).device_waits
