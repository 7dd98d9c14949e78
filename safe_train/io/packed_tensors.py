"""Many tensors in one piece of memory: one copy to another process, one into pinned memory, one to the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

ALIGNMENT = 256
"""Bytes on whose multiples a tensor begins, as PyTorch's allocator for GPUs does it."""


@dataclass(frozen=True)
class PackedTensors:
    """Tensors by name.

    Attributes:
        buffer: uint8 [bytes], all of them.
        places: of each its dtype, its shape and the byte at which it begins.
    """

    buffer: Tensor
    places: dict[str, tuple[torch.dtype, tuple[int, ...], int]]

    @classmethod
    def pack(cls, tensors: Mapping[str, Tensor]) -> PackedTensors:
        """Copies tensors of the CPU."""
        places, size = {}, 0
        for name, tensor in tensors.items():
            places[name] = (tensor.dtype, tuple(tensor.shape), size)
            size += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        packed = cls(torch.empty(size, dtype=torch.uint8), places)
        for name, view in packed.unpack().items():
            view.copy_(tensors[name])
        return packed

    def unpack(self, device: str | torch.device = "cpu") -> dict[str, Tensor]:
        """The tensors on a device, as views of one copy there; from pinned memory, the host does not wait for it."""
        buffer = self.buffer.to(device, non_blocking=True)
        return {
            name: buffer[start : start + dtype.itemsize * torch.Size(shape).numel()].view(dtype).view(shape)
            for name, (dtype, shape, start) in self.places.items()
        }

    def pin_memory(self) -> PackedTensors:
        """The same in pinned memory."""
        return PackedTensors(self.buffer.pin_memory(), self.places)
