"""What a trainer's processes do together: they share a step's retention examples and calibrate each on all."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from safe_train.distributed.processes import Processes
from safe_train.retention.collectives import SingleProcess


class ReplicatedCalibration(SingleProcess):
    """What a calibration sums and gathers is whole in every process; means over a step's examples are taken over all.

    A trainer's collator pads each share by itself, and images have no axis of rows: shares could not be gathered as a
    batch. So every process calibrates on all retention examples, as one process alone would, and gets the same bits.
    """

    def __init__(self, processes: Processes) -> None:
        self.processes = processes

    def mean(self, value: float, count: int) -> float:
        """Mean over all processes of a mean over ``count`` items."""
        return self.processes.mean(value, count)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return self.processes.any(flag)


def average_gradients(processes: Processes, parameters: Iterable[Tensor]) -> None:
    """Replaces each gradient by its mean over all processes, as DDP does; zeros where a process has none."""
    gradients = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = parameter.new_zeros(parameter.shape)
        gradients.append(parameter.grad)
    processes.sum_(gradients)
    for gradient in gradients:
        gradient /= processes.world_size
