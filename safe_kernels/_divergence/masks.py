"""Which tokens count: the mask from labels, and packing the tokens it keeps without making the host wait for a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

from safe_kernels._checks import check_shape


def answer_mask(labels: Tensor, *, ignore_index: int = -100, shift: bool = True) -> Tensor:
    """The tokens whose prediction counts, as the `mask` of the divergences, from the labels of a language model.

    Args:
        labels: [..., T] integers; `ignore_index` where there is nothing to predict (prompt, padding).
        ignore_index: the label that does not count.
        shift: whether labels stand at their own tokens, as models take them: position t then counts if the label at
            t + 1 does, and the last never. False if they are shifted already.

    Returns:
        Boolean, the labels' shape and device.

    Raises:
        TypeError: the labels are not integers.
        ValueError: the labels have no dimension.
    """
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels: expected integers, got {labels.dtype}")
    if labels.dim() == 0:
        raise ValueError("labels: expected shape [..., T], got []")
    counts = labels != ignore_index
    return torch.nn.functional.pad(counts[..., 1:], (0, 1)) if shift and labels.shape[-1] else counts


def check_mask(mask: Tensor | None, shape: torch.Size, device: torch.device) -> None:
    """Raise unless the mask is boolean, of the tokens' shape, and on `device` or the CPU."""
    if mask is None:
        return
    if mask.dtype != torch.bool:
        raise TypeError(f"mask: expected dtype torch.bool, got {mask.dtype}")
    check_shape("mask", mask, shape)
    if mask.device != device and mask.device.type != "cpu":
        raise ValueError(f"mask: expected device {device} or cpu, got {mask.device}")


def move_mask(mask: Tensor | None, device: torch.device) -> Tensor | None:
    """The mask on a device, for a kernel that skips masked rows.

    Raises:
        RuntimeError: the mask would be copied to a GPU inside a CUDA graph.
    """
    return None if mask is None else _on_device(mask, device)


def find_kept_rows(mask: Tensor | None, device: torch.device) -> Tensor | None:
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
