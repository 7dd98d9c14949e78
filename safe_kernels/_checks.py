"""Validators for the arguments of the operations: every message names the argument, what was expected and what came."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from safe_kernels._dtypes import FLOATING_DTYPES


def check_floating(name: str, tensor: Tensor, allowed: Sequence[torch.dtype] = FLOATING_DTYPES) -> None:
    """Raise `TypeError` unless the tensor's dtype is one of those allowed."""
    if tensor.dtype not in allowed:
        raise TypeError(f"{name}: expected dtype {_join(allowed)}, got {tensor.dtype}")


def check_same_dtype(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Raise `TypeError` unless both tensors have one dtype."""
    if tensor.dtype != other.dtype:
        raise TypeError(f"{name}: expected the dtype of {other_name}, {other.dtype}, got {tensor.dtype}")


def check_same_device(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Raise `ValueError` unless both tensors are on one device."""
    if tensor.device != other.device:
        raise ValueError(f"{name}: expected the device of {other_name}, {other.device}, got {tensor.device}")


def check_one_device(name: str, tensors: Sequence[Tensor]) -> None:
    """Raise `ValueError` unless all tensors are on one device: a launch takes addresses of no other."""
    devices = {tensor.device for tensor in tensors}
    if len(devices) > 1:
        found = ", ".join(sorted(map(str, devices)))
        raise ValueError(f"{name}: expected all on one device, got {found}; call once for each device")


def check_rank(name: str, tensor: Tensor, axes: str) -> None:
    """Raise `ValueError` unless the tensor has as many dimensions as `axes` names, e.g. `"N, V"`."""
    if tensor.dim() != axes.count(",") + 1:
        raise ValueError(f"{name}: expected shape [{axes}], got {list(tensor.shape)}")


def check_shape(name: str, tensor: Tensor, expected: Sequence[int]) -> None:
    """Raise `ValueError` unless the tensor has exactly this shape."""
    if tuple(tensor.shape) != tuple(expected):
        raise ValueError(f"{name}: expected shape {list(expected)}, got {list(tensor.shape)}")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise `ValueError` unless the value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")


def check_positive(name: str, value: float) -> None:
    """Raise `ValueError` unless the value is above zero."""
    if not value > 0:
        raise ValueError(f"{name}: expected a number above 0, got {value}")


def check_same_length(name: str, values: Sequence[object], other_name: str, others: Sequence[object]) -> None:
    """Raise `ValueError` unless both sequences have one length."""
    if len(values) != len(others):
        raise ValueError(f"{name}: expected {len(others)} entries, one for each of {other_name}, got {len(values)}")


def check_beside(name: str, tensor: Tensor | None, other_name: str, other: Tensor) -> None:
    """Raise unless a floating tensor is there, on the device and with the shape of the other."""
    if tensor is None:
        raise TypeError(f"{name}: expected a tensor, got None")
    check_floating(name, tensor)
    check_same_device(name, tensor, other_name, other)
    check_shape(name, tensor, other.shape)


def refuse_compilation(function: str) -> None:
    """Raise `RuntimeError` inside `torch.compile`, where a prepared plan cannot look at addresses."""
    if torch.compiler.is_compiling():
        raise RuntimeError(
            f"a prepared plan: expected a call outside of torch.compile, got one inside; call {function}"
        )


def _join(dtypes: Sequence[torch.dtype]) -> str:
    return " or ".join(str(dtype) for dtype in dtypes)
