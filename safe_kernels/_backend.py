"""Which implementation runs an operation, Triton or PyTorch, and why."""

from __future__ import annotations

import importlib.util
import logging
import os
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch

BackendName = Literal["triton", "torch"]

_VARIABLE = "SAFE_KERNELS_BACKEND"
_CHOICES = ("auto", "triton", "torch")
_MINIMUM_CAPABILITY = (8, 0)
"""Of NVIDIA devices: before, bfloat16 is emulated and the Fisher kernel spills 2,744 registers (sm_75)."""
_logger = logging.getLogger("safe_kernels")


class BackendUnavailableError(RuntimeError):
    """The requested backend cannot run here; the message says why and what to do."""


@dataclass(frozen=True)
class BackendInfo:
    """The backend of one device.

    Attributes:
        name: what runs, `"triton"` or `"torch"`.
        requested: the value of `SAFE_KERNELS_BACKEND`, `"auto"` where it is not set.
        device: the device asked about.
        reason: one sentence saying why `name` was chosen.
    """

    name: BackendName
    requested: str
    device: str
    reason: str


def backend_info(device: torch.device | str | None = None) -> BackendInfo:
    """Tell which backend runs operations on a device, and why.

    Args:
        device: the device; by default the GPU where there is one, else the CPU.

    Raises:
        BackendUnavailableError: `SAFE_KERNELS_BACKEND=triton`, and Triton cannot run there.
        ValueError: `SAFE_KERNELS_BACKEND` is not one of auto, triton, torch.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    requested = _requested()
    obstacle = _triton_obstacle(device)
    if requested == "torch":
        return BackendInfo("torch", requested, str(device), f"{_VARIABLE}=torch")
    if requested == "triton":
        if obstacle is not None:
            raise BackendUnavailableError(
                f"{_VARIABLE}=triton, but {obstacle}; set {_VARIABLE}=auto to run the PyTorch implementation there"
            )
        return BackendInfo("triton", requested, str(device), f"{_VARIABLE}=triton")
    if obstacle is not None:
        return BackendInfo("torch", requested, str(device), obstacle)
    if device.type == "cpu":
        return BackendInfo("torch", requested, str(device), "Triton's interpreter is for tests, not for speed")
    return BackendInfo("triton", requested, str(device), f"Triton is installed and the device is {device.type}")


def choose_backend(*tensors: torch.Tensor) -> BackendName:
    """Backend for an operation on these tensors, which share one device.

    Raises:
        BackendUnavailableError: Triton was asked for by name, and cannot run on these tensors.
    """
    device = tensors[0].device
    info = backend_info(device)
    if info.name == "torch":
        if info.requested == "auto" and device.type != "cpu":
            _tell_fallback_once(info.reason)
        return "torch"
    if all(tensor.dtype in (torch.float32, torch.bfloat16, torch.float16) for tensor in tensors):
        return "triton"
    obstacle = "the Triton kernels accumulate in float32 and do not take float64 tensors"
    if info.requested == "triton":
        raise BackendUnavailableError(f"{_VARIABLE}=triton, but {obstacle}")
    _tell_fallback_once(obstacle)
    return "torch"


def interpreting() -> bool:
    """Whether Triton kernels run in Triton's interpreter, on the CPU, instead of being compiled."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def _requested() -> str:
    requested = os.environ.get(_VARIABLE, "auto")
    if requested not in _CHOICES:
        raise ValueError(f"{_VARIABLE}: expected one of {', '.join(_CHOICES)}, got {requested!r}")
    return requested


@cache
def _triton_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def _triton_obstacle(device: torch.device) -> str | None:
    """Why Triton cannot run on a device; None where it can."""
    if not _triton_installed():
        return "the triton package is not installed"
    if device.type == "cpu":
        return None if interpreting() else "Triton needs a GPU and the tensors are on the CPU"
    if device.type != "cuda":
        return f"the kernels support CUDA and ROCm devices, not {device.type!r}"
    if not torch.cuda.is_available():
        return "torch finds no GPU"
    if torch.version.hip is None and (found := _capability(device)) < _MINIMUM_CAPABILITY:
        wanted = ".".join(map(str, _MINIMUM_CAPABILITY))
        return f"the kernels need compute capability {wanted} or later, and {device} has {found[0]}.{found[1]}"
    return None


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


@cache
def _tell_fallback_once(reason: str) -> None:
    _logger.warning("safe_kernels uses its PyTorch implementation: %s", reason)
