"""Options and arguments of the divergences: checks, and what autocast and function transforms mean for them."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from safe_kernels._checks import check_choice, check_positive, check_same_device

Divergence = Literal["forward", "reverse", "jsd"]
Reduction = Literal["mean", "sum", "none"]
DIVERGENCES = ("forward", "reverse", "jsd")
REDUCTIONS = ("mean", "sum", "none")


class Measure(NamedTuple):
    """Which divergence: forward, reverse or jsd, and the teacher's weight beta in the mixture m of jsd."""

    name: str
    beta: float = 0.5


def check_options(temperature: float, divergence: str, jsd_beta: float, reduction: str) -> None:
    """Raise `ValueError` unless the options are known ones."""
    check_positive("temperature", temperature)
    check_choice("divergence", divergence, DIVERGENCES)
    check_choice("reduction", reduction, REDUCTIONS)
    if not 0.0 <= jsd_beta <= 1.0:
        raise ValueError(f"jsd_beta: expected a number from 0 to 1, got {jsd_beta}")


def choose_measure(divergence: str, jsd_beta: float) -> tuple[str, float]:
    """Name and beta of the divergence: at its ends the mixture is one of the two, and jsd one of the others."""
    if divergence == "jsd" and jsd_beta in (0.0, 1.0):
        return ("reverse" if jsd_beta else "forward"), 0.5
    return divergence, float(jsd_beta)


def flatten_tokens(tensor: Tensor) -> Tensor:
    """[B, T, ...] as [B T, ...]."""
    return tensor.flatten(0, 1) if tensor.dim() == 3 else tensor


def refuse_function_transforms(operation: str, student: Tensor) -> None:
    """Raise `RuntimeError` inside `torch.func.grad` and its kin: they record the backward pass, which is refused."""
    if not torch.compiler.is_compiling() and torch._C._functorch.is_gradtrackingtensor(student):  # pyright: ignore[reportAttributeAccessIssue]
        raise RuntimeError(
            f"{operation}: expected a derivative by torch.autograd, got a transform of torch.func; take it with "
            "backward() or torch.autograd.grad"
        )


def check_tokens(name: str, tensor: Tensor, last: str) -> None:
    """Raise `ValueError` unless the tensor is [N, last] or [B, T, last]."""
    if tensor.dim() not in (2, 3):
        raise ValueError(f"{name}: expected shape [N, {last}] or [B, T, {last}], got {list(tensor.shape)}")


def check_like(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Raise unless the tensor has the device of the other and, without autocast, its dtype."""
    check_same_device(name, tensor, other_name, other)
    if tensor.dtype != other.dtype and not autocast_is_on(other):
        raise TypeError(
            f"{name}: expected the dtype of {other_name}, {other.dtype}, got {tensor.dtype}; "
            "convert it, or run under torch.autocast"
        )


def autocast_is_on(tensor: Tensor) -> bool:
    """Whether autocast is on for the tensor's device."""
    return tensor.device.type in ("cpu", "cuda") and torch.is_autocast_enabled(tensor.device.type)


def reduce_tokens(tokens: Tensor, mask: Tensor | None, reduction: Reduction) -> Tensor:
    """Reduce token values, which are zero where masked; a mask on the CPU stays there."""
    if reduction == "none":
        return tokens
    total = tokens.sum()
    if reduction == "sum":
        return total
    return total / (max(tokens.numel(), 1) if mask is None else mask.sum().clamp_min(1))
