"""How fast a machine works through a cost, and what is assumed of GPUs where nothing was measured."""

from __future__ import annotations

from dataclasses import dataclass

from safe_train.configs.gpus import Gpu
from safe_train.estimate.trace import Cost

GIB = 2**30


@dataclass(frozen=True)
class Speed:
    """How fast operations run.

    Attributes:
        flops: floating-point operations a second, of matrix products.
        bandwidth: bytes a second, of everything else.
        seconds_per_operation: what starting one takes the host.
        overlaps: whether the host starts the next operations while the device works.
    """

    flops: float
    bandwidth: float
    seconds_per_operation: float
    overlaps: bool

    def seconds(self, cost: Cost) -> float:
        """Time of a computation."""
        device = cost.flops / self.flops + cost.traffic / self.bandwidth
        host = cost.operations * self.seconds_per_operation
        return max(device, host) if self.overlaps else device + host

    def slowed(self, factor: float) -> Speed:
        """The same, ``factor`` times as slow in everything."""
        return Speed(self.flops / factor, self.bandwidth / factor, self.seconds_per_operation * factor, self.overlaps)


@dataclass(frozen=True, kw_only=True)
class Utilization:
    """What of a GPU's published speed and memory a run gets.

    Measured on an H100, with steps of the five variants on LLaVA-1.5-7B's shape in bfloat16
    (docs/kernels/measured-gpu.md); assumed for other GPUs, shapes and precisions. The two shares were fitted together
    to the steps, in the ratio of earlier assumptions: steps are within 4 %, the base's forward pass alone takes 7 %
    longer.

    Attributes:
        matmul: share of the peak that matrix products reach.
        bandwidth: share of the memory bandwidth that the other operations reach.
        seconds_per_operation: host time of one operation in eager mode.
        reserved_bytes: what the CUDA context, its libraries and their workspaces take.
        fragmentation: share of the rest that the allocator cannot use.
    """

    matmul: float = 0.565
    bandwidth: float = 0.79
    seconds_per_operation: float = 10e-6
    reserved_bytes: int = GIB
    fragmentation: float = 0.06


ASSUMED = Utilization()


def usable_bytes(gpu: Gpu, assumed: Utilization = ASSUMED) -> int:
    """Bytes of a GPU's memory that a plan may fill."""
    return int((gpu.memory - assumed.reserved_bytes) * (1 - assumed.fragmentation))


def speed_of(gpu: Gpu, precision: str, assumed: Utilization = ASSUMED) -> Speed:
    """Speed of a GPU under the assumed utilization."""
    return Speed(
        gpu.peak[precision] * assumed.matmul,
        gpu.bandwidth * assumed.bandwidth,
        assumed.seconds_per_operation,
        overlaps=True,
    )
