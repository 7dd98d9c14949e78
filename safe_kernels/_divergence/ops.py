"""What the operators of the divergences refuse, and how a result that is no number is traced to its cause."""

from __future__ import annotations

import torch
from torch import Tensor


def refuse_second_derivative(operation: str, reference: str) -> None:
    """Refuse a backward pass that is itself recorded: the gradient's dependence on the student would be left out.

    Raises:
        RuntimeError: the backward pass runs with `create_graph=True`.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"{operation}: expected a backward pass with create_graph=False, got create_graph=True; it has no second "
            f"derivative, for which {reference} in float64 can be used"
        )


def raise_if_teacher_not_finite(name: str, teacher: Tensor, values: Tensor) -> None:
    """Trace a NaN result to the teacher. Only on the CPU: elsewhere looking would synchronize with the device.

    Raises:
        ValueError: a result is NaN because the teacher holds a NaN or +inf there.
    """
    if values.device.type != "cpu" or not values.isnan().any():
        return
    row = int(values.isnan().nonzero()[0])
    if (teacher[row].isnan() | teacher[row].isposinf()).any():
        raise ValueError(f"{name}: expected finite values, got NaN or +inf in row {row}")


def raise_if_one_excludes_alone(student: Tensor, teacher: Tensor, values: Tensor, names: str) -> None:
    """Trace a result that is no number to a class that only one of the two excludes; on the CPU, as above.

    Raises:
        ValueError: a class is excluded by -inf on one side only, where the divergence is infinite or not defined.
    """
    if values.device.type != "cpu" or values.isfinite().all():
        return
    for row in (~values.isfinite()).nonzero().flatten().tolist():
        raise_if_one_sided(student[row], teacher[row], f"{names}: in row {row}")


def raise_if_one_sided(student: Tensor, teacher: Tensor, place: str) -> None:
    """Refuse a class that only one of the two excludes.

    Raises:
        ValueError: a class is -inf on one side only; the message begins with `place`.
    """
    alone = torch.isneginf(student) != torch.isneginf(teacher)
    if alone.any():
        raise ValueError(
            f"{place}: expected -inf in both or in neither, got it in one alone for class {int(alone.nonzero()[0])}; "
            "exclude the class from both"
        )
