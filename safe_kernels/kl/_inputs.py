"""Checks of the divergences' arguments, and what autocast and function transforms mean for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from safe_kernels._checks import (
    check_choice,
    check_floating,
    check_positive,
    check_rank,
    check_same_device,
    check_shape,
)

DIVERGENCES = ("forward", "reverse", "jsd")
REDUCTIONS = ("mean", "sum", "none")


class Heads(NamedTuple):
    """The frozen heads as given: [V, H] and [V] of the student, [V, H_t] and [V] of a teacher with its own."""

    weight: Tensor
    bias: Tensor | None
    teacher_weight: Tensor | None
    teacher_bias: Tensor | None

    def detached(self) -> Heads:
        """Without gradients."""
        return self._changed(Tensor.detach)

    def to(self, dtype: torch.dtype) -> Heads:
        """In another dtype."""
        return self._changed(lambda tensor: tensor.to(dtype))

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Heads:
        others = (None if tensor is None else change(tensor) for tensor in self[1:])
        return Heads(change(self.weight), *others)

    def named(self) -> dict[str, Tensor]:
        """Those that are given, by the names of their arguments."""
        names = ("head_weight", "head_bias", "teacher_head_weight", "teacher_head_bias")
        return {name: tensor for name, tensor in zip(names, self, strict=True) if tensor is not None}


def check_options(temperature: float, divergence: str, jsd_beta: float, reduction: str) -> None:
    """Raise `ValueError` unless the options are known ones."""
    check_positive("temperature", temperature)
    check_choice("divergence", divergence, DIVERGENCES)
    check_choice("reduction", reduction, REDUCTIONS)
    if not 0.0 <= jsd_beta <= 1.0:
        raise ValueError(f"jsd_beta: expected a number from 0 to 1, got {jsd_beta}")


def measure_of(divergence: str, jsd_beta: float) -> tuple[str, float]:
    """Name and beta of the divergence: at its ends the mixture is one of the two, and jsd one of the others."""
    if divergence == "jsd" and jsd_beta in (0.0, 1.0):
        return ("reverse" if jsd_beta else "forward"), 0.5
    return divergence, float(jsd_beta)


def by_tokens(tensor: Tensor) -> Tensor:
    """[B, T, ...] as [B T, ...]."""
    return tensor.flatten(0, 1) if tensor.dim() == 3 else tensor


def check_mask(mask: Tensor | None, shape: torch.Size, device: torch.device) -> None:
    """Raise unless the mask is boolean, of the tokens' shape, and on `device` or the CPU."""
    if mask is None:
        return
    if mask.dtype != torch.bool:
        raise TypeError(f"mask: expected dtype torch.bool, got {mask.dtype}")
    check_shape("mask", mask, shape)
    if mask.device != device and mask.device.type != "cpu":
        raise ValueError(f"mask: expected device {device} or cpu, got {mask.device}")


def refuse_function_transforms(operation: str, student: Tensor) -> None:
    """Raise `RuntimeError` inside `torch.func.grad` and its kin: they record the backward pass, which is refused."""
    if not torch.compiler.is_compiling() and torch._C._functorch.is_gradtrackingtensor(student):  # pyright: ignore[reportAttributeAccessIssue]
        raise RuntimeError(
            f"{operation}: expected a derivative by torch.autograd, got a transform of torch.func; take it with "
            "backward() or torch.autograd.grad"
        )


def promoted_by_autocast(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Under autocast, logits of two dtypes in the wider one, as autocast treats the inputs of a divergence."""
    if student.dtype == teacher.dtype or not _autocast(student):
        return student, teacher
    dtype = torch.promote_types(student.dtype, teacher.dtype)
    return student.to(dtype), teacher.to(dtype)


def heads_under_autocast(student: Tensor, teacher: Tensor, heads: Heads) -> Heads:
    """Under autocast, heads in its dtype if the dtypes differ, as `torch.nn.functional.linear` takes them there.

    Dtypes that agree stay: autocast lowers no precision here.
    """
    given = (student, teacher, *heads.named().values())
    if not _autocast(student) or len({tensor.dtype for tensor in given}) == 1:
        return heads
    for name, tensor in (("student_hidden", student), ("teacher_hidden", teacher), *heads.named().items()):
        check_floating(name, tensor, (torch.float32, torch.bfloat16, torch.float16))
    return heads.to(torch.get_autocast_dtype(student.device.type))


def check_logits(student: Tensor, teacher: Tensor) -> None:
    """Raise unless the logits fit each other."""
    _check_tokens("student_logits", student, "V")
    check_floating("student_logits", student)
    _check_like("teacher_logits", teacher, "student_logits", student)
    check_shape("teacher_logits", teacher, student.shape)


def check_states(student: Tensor, teacher: Tensor, heads: Heads) -> None:
    """Raise unless hidden states and heads fit each other."""
    _check_tokens("student_hidden", student, "H")
    check_floating("student_hidden", student)
    if heads.teacher_weight is None and heads.teacher_bias is not None:
        raise ValueError("teacher_head_bias: expected None without teacher_head_weight, got a tensor")
    hidden = student.shape[-1]
    check_rank("head_weight", heads.weight, "V, H")
    vocabulary = heads.weight.shape[0]
    shapes = {"head_weight": (vocabulary, hidden), "head_bias": (vocabulary,), "teacher_head_bias": (vocabulary,)}
    teacher_size = hidden
    if heads.teacher_weight is not None:
        check_rank("teacher_head_weight", heads.teacher_weight, "V, H_t")
        teacher_size = heads.teacher_weight.shape[1]
        shapes["teacher_head_weight"] = (vocabulary, teacher_size)
    shapes["teacher_hidden"] = (*student.shape[:-1], teacher_size)
    for name, tensor in {**heads.named(), "teacher_hidden": teacher}.items():
        _check_like(name, tensor, "student_hidden", student)
        check_shape(name, tensor, shapes[name])


def _check_tokens(name: str, tensor: Tensor, last: str) -> None:
    if tensor.dim() not in (2, 3):
        raise ValueError(f"{name}: expected shape [N, {last}] or [B, T, {last}], got {list(tensor.shape)}")


def _autocast(tensor: Tensor) -> bool:
    return tensor.device.type in ("cpu", "cuda") and torch.is_autocast_enabled(tensor.device.type)


def _check_like(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    check_same_device(name, tensor, other_name, other)
    if tensor.dtype != other.dtype and not _autocast(other):
        raise TypeError(
            f"{name}: expected the dtype of {other_name}, {other.dtype}, got {tensor.dtype}; "
            "convert it, or run under torch.autocast"
        )
