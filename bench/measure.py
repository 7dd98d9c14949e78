"""One benchmark row: time, work, share of the hardware's limit, extra memory and error, of ours or of a peer.

The limit ("floor") of an operation is the time that its arithmetic or its memory traffic takes at the speeds measured
in the same run: of a float32 (CPU) or bfloat16 (GPU) matrix product and of a copy. The time of a row is the best round
on a CPU, which other programs disturb; on a GPU it is that on the device, and the host's stands beside it
(`bench.timing`).
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from bench.rehearsal import rehearsing
from bench.timing import CudaQueue, Timing, time_call

OURS = "safe_kernels"

_SHORT, _SHORT_ROUNDS = 1e-3, 30


class WrongResultError(AssertionError):
    """Our result is outside its tolerance: its speed is not worth reporting."""


@dataclass(frozen=True)
class Work:
    """What an operation has to do at least.

    Attributes:
        flops: arithmetic operations of its matrix products.
        traffic: bytes that must be read and written.
    """

    flops: float = 0.0
    traffic: float = 0.0


@dataclass(frozen=True)
class Limits:
    """Measured speeds of a device.

    Attributes:
        flops: floating-point operations a second of a large matrix product.
        bandwidth: bytes a second of a large copy, reads and writes counted.
    """

    flops: float
    bandwidth: float

    def floor(self, work: Work) -> float:
        """Seconds that the work takes at least."""
        return max(work.flops / self.flops, work.traffic / self.bandwidth)


@dataclass(frozen=True)
class Row:
    """What is measured and how it is judged.

    Attributes:
        operation: the public operation, the heading of its table.
        size: sizes in words.
        implementation: `OURS` or the peer's name.
        work: what must be done at least.
        error: relative error against float64.
        tolerance: largest error that counts as right.
        rounds: timed repetitions.
    """

    operation: str
    size: str
    implementation: str
    work: Work
    error: float
    tolerance: float
    rounds: int = 3


def run(benchmark: Any, row: Row, function: Callable[[], Any], device: torch.device) -> None:
    """Time a function with pytest-benchmark and put everything else of the row beside the time.

    Raises:
        WrongResultError: our result is outside its tolerance.
    """
    if row.implementation == OURS and not row.error <= row.tolerance:
        raise WrongResultError(f"{row.operation}: error {row.error:.3g}, tolerance {row.tolerance:.3g}")
    on_gpu = device.type == "cuda"
    memory = peak_extra_bytes(function, device)
    found = gpu_limits() if on_gpu else limits(device)
    benchmark.group = f"{row.operation}, {row.size}"
    benchmark.pedantic(_synchronized(function, device), rounds=1 if on_gpu else row.rounds, iterations=1)
    timing = device_timing(function, row.rounds) if on_gpu else None
    benchmark.extra_info.update(
        operation=row.operation,
        size=row.size,
        implementation=row.implementation,
        device=device_name(device),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        seconds=timing.device if timing else benchmark.stats.stats.min,
        host_seconds=timing.host if timing else None,
        device_waits=timing is not None and timing.device_waits,
        flops=row.work.flops,
        traffic=row.work.traffic,
        limit_flops=found.flops,
        limit_bandwidth=found.bandwidth,
        peak_extra_bytes=memory,
        error=row.error,
        tolerance=row.tolerance,
    )


def peak_extra_bytes(function: Callable[[], Any], device: torch.device) -> int:
    """Largest sum of tensor allocations alive at once during a call, above what was alive before. Warms up, too."""
    if device.type == "cuda":
        function()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as recorded:
        function()
    # The raw events: the processed ones attribute an allocation to the operator around it and lose when it was freed.
    raw: Any = recorded.profiler
    changes = [event for event in raw.kineto_results.events() if event.name() == "[memory]"]
    if not changes:
        raise RuntimeError("the profiler recorded no allocation")
    alive = peak = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def device_timing(function: Callable[[], Any], rounds: int) -> Timing:
    """Time of a call on the current GPU and on the host; warms up. Short calls are timed more often."""
    function()
    found = time_call(function, max(rounds, 5), CudaQueue())
    return found if found.device > _SHORT else time_call(function, _SHORT_ROUNDS, CudaQueue())


@cache
def gpu_limits() -> Limits:
    """Speeds of the current GPU, measured once a process: nothing else runs on it."""
    return limits(torch.device("cuda"))


def limits(device: torch.device) -> Limits:
    """Speeds of a device, measured beside each row; the report takes the best of a run."""
    on_gpu = device.type == "cuda"
    size, dtype = (8192, torch.bfloat16) if on_gpu else (64 if rehearsing() else 1024, torch.float32)
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    elements = 2**30 if on_gpu else 2**12 if rehearsing() else 2**25
    source = torch.zeros(elements, device=device, dtype=torch.float32)
    target = torch.zeros_like(source)

    def seconds(function: Callable[[], Any]) -> float:
        return device_timing(function, 10).device if on_gpu else _best_seconds(function)

    product = seconds(lambda: torch.mm(left, right))
    copy = seconds(lambda: target.copy_(source))
    return Limits(flops=2 * size**3 / product, bandwidth=2 * source.nbytes / copy)


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """`||actual - expected|| / ||expected||` in float64."""
    actual, expected = actual.detach().double(), expected.detach().double().to(actual.device)
    return float((actual - expected).norm() / expected.norm())


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """By `torch.compile`, for each size anew; in a rehearsal, which is to find wrong names, without generated code."""
    return torch.compile(function, backend="eager" if rehearsing() else "inductor", dynamic=False)


def peer(module: str, package: str) -> Any:
    """A module of a peer whose kernels need a GPU; skips the benchmark where either is missing."""
    if not torch.cuda.is_available():
        pytest.skip(f"the kernels of {package} need a GPU")
    return pytest.importorskip(module, reason=f"{package} is not installed", exc_type=ImportError)


def _best_seconds(function: Callable[[], Any]) -> float:
    function()
    found = []
    for _ in range(5):
        start = time.perf_counter()
        function()
        found.append(time.perf_counter() - start)
    return min(found)


def _synchronized(function: Callable[[], Any], device: torch.device) -> Callable[[], None]:
    def call() -> None:
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return call
