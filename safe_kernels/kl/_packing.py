"""Tokens that a mask keeps: gathered, and put back, without making the host wait for a GPU."""

from __future__ import annotations

import torch
from torch import Tensor


def mask_on(mask: Tensor | None, device: torch.device) -> Tensor | None:
    """The mask on a device, for a kernel that skips masked rows.

    Raises:
        RuntimeError: the mask would be copied to a GPU inside a CUDA graph.
    """
    return None if mask is None else _on_device(mask, device)


def packed_rows(mask: Tensor | None, device: torch.device) -> Tensor | None:
    """Numbers of the rows that the mask keeps, on the device; None keeps all.

    They are found where the mask is. On the CPU that needs no GPU, on a GPU their count makes the host wait for it.

    Raises:
        RuntimeError: the numbers would be copied to a GPU inside a CUDA graph.
    """
    return None if mask is None else _on_device(mask.nonzero().flatten(), device)


def pack(tensor: Tensor, rows: Tensor | None) -> Tensor:
    """The rows with these numbers."""
    return tensor if rows is None else tensor.index_select(0, rows)


def unpack(packed: Tensor, rows: Tensor | None, count: int) -> Tensor:
    """Put packed rows back among `count`; the others are zero."""
    if rows is None:
        return packed
    return packed.new_zeros((count, *packed.shape[1:])).index_copy_(0, rows, packed)


def _on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy what a mask says to a device, from pinned memory: a copy from other memory waits for the GPU."""
    if tensor.device == device or device.type != "cuda":
        return tensor.to(device)
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            f"mask: expected a mask on {device} while a CUDA graph is captured, got one on the CPU, which every replay "
            "would copy from memory that others use by then; move it to the GPU before the capture"
        )
    return tensor.pin_memory().to(device, non_blocking=True)
