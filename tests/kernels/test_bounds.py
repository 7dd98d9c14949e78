"""Every operation reads and writes its own tensors alone: what lies before, behind and between them does not matter."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from safe_kernels import (
    EwcPlan,
    SquaredGradientEmaPlan,
    fisher_diagonal_,
    kl_divergence,
    project_null_space_,
)
from tests.tolerances import PROJECTION, relative_error

NAN = float("nan")
ROOM = 64
DTYPES = [torch.float32, torch.bfloat16, torch.float16]

# NumPy's, in the interpreter.
pytestmark = pytest.mark.filterwarnings("ignore:All-NaN slice", "ignore:invalid value encountered")


class Guarded:
    """Tensors that lie between values of one kind, and whether those are still there."""

    def __init__(self, around: float) -> None:
        self.around, self.rooms = around, []

    def __call__(self, tensor: Tensor) -> Tensor:
        room = torch.full((tensor.numel() + 2 * ROOM,), self.around, dtype=tensor.dtype, device=tensor.device)
        self.rooms.append(room)
        return room[ROOM : ROOM + tensor.numel()].view(tensor.shape).copy_(tensor)

    def check(self) -> None:
        for room in self.rooms:
            around = torch.cat([room[:ROOM], room[-ROOM:]])
            assert torch.equal(around.nan_to_num(7.0), torch.full_like(around, self.around).nan_to_num(7.0))


Work = Callable[[Callable[[Tensor], Tensor], torch.dtype], list[Tensor]]
"""An operation on tensors that were put somewhere; gives what it has changed or made."""


def projected_rows(put: Callable[[Tensor], Tensor], dtype: torch.dtype) -> list[Tensor]:
    tensor, basis = put(torch.randn(21, 37).to(dtype)), put(torch.linalg.qr(torch.randn(37, 5))[0].contiguous())
    project_null_space_([tensor], [basis])
    return [tensor]


def projected_vector(put: Callable[[Tensor], Tensor], dtype: torch.dtype) -> list[Tensor]:
    tensor, basis = put(torch.randn(205).to(dtype)), put(torch.linalg.qr(torch.randn(205, 5))[0].contiguous())
    project_null_space_([tensor], [basis])
    return [tensor]


def penalty(put: Callable[[Tensor], Tensor], dtype: torch.dtype) -> list[Tensor]:
    param = torch.nn.Parameter(put(torch.randn(205).to(dtype)))
    param.grad = put(torch.randn(205).to(dtype))
    value = EwcPlan([param], [put(torch.randn(205).to(dtype))], [put(torch.rand(205))])(0.7)
    return [value, param.grad]


def average(put: Callable[[Tensor], Tensor], dtype: torch.dtype) -> list[Tensor]:
    fisher = put(torch.rand(205))
    SquaredGradientEmaPlan([fisher])([put(torch.randn(205).to(dtype))], 0.9)
    return [fisher]


def diagonal(put: Callable[[Tensor], Tensor], dtype: torch.dtype) -> list[Tensor]:
    out = put(torch.rand(19, 21))
    return [fisher_diagonal_(out, put(torch.randn(3, 35, 21).to(dtype)), put(torch.randn(3, 35, 19).to(dtype)))]


def divergence(put: Callable[[Tensor], Tensor], dtype: torch.dtype) -> list[Tensor]:
    teacher = torch.randn(3, 201)
    student = put((teacher + 0.1 * torch.randn(3, 201)).to(dtype)).requires_grad_()
    values = kl_divergence(student, put(teacher.to(dtype)), reduction="none")
    (gradient,) = torch.autograd.grad(values.sum(), student)
    return [values.detach(), gradient]


@pytest.mark.parametrize("around", [NAN, 3.0])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("work", [projected_rows, projected_vector, penalty, average, diagonal, divergence])
def test_what_lies_around_the_tensors_does_not_matter(
    backend: str, device: torch.device, work: Work, dtype: torch.dtype, around: float
) -> None:
    guarded, found = Guarded(around), []
    for put in (guarded, torch.clone):
        torch.manual_seed(0)
        found.append(work(lambda tensor, put=put: put(tensor.to(device)), dtype))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    guarded.check()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dimension", [16, 37, 72])
def test_a_row_that_is_no_number_stays_alone(
    backend: str, device: torch.device, dtype: torch.dtype, dimension: int
) -> None:
    """Rows lie side by side: what is read or written behind the end of one is the next."""
    basis = torch.linalg.qr(torch.randn(dimension, 5, device=device))[0].contiguous()
    for number in (0, 7, 20):
        tensor = torch.randn(21, dimension, device=device).to(dtype)
        others = [row for row in range(21) if row != number]
        want = tensor[others].double() @ (torch.eye(dimension, device=device) - basis @ basis.t()).double()
        before = float(tensor[others].double().norm())
        tensor[number] = NAN
        project_null_space_([tensor], [basis])
        assert tensor[number].isnan().all()
        assert tensor[others].isfinite().all()
        assert float((tensor[others].double() - want).norm()) < PROJECTION[dtype] * before


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_vector_that_is_no_number_leaves_the_next_one_in_its_buffer(
    backend: str, device: torch.device, dtype: torch.dtype
) -> None:
    """Views of one buffer, as flat optimizers make them; the first ends inside of a block."""
    sizes = (72, 205, 130)
    for number in range(3):
        buffer = torch.randn(sum(sizes) + ROOM, device=device).to(dtype)
        parts = list(buffer[: sum(sizes)].split(sizes))
        parts[number].fill_(NAN)
        before = buffer.clone()
        bases = [torch.linalg.qr(torch.randn(size, 4, device=device))[0].contiguous() for size in sizes]
        alone = [part.clone() for part in parts]
        for part, basis in zip(alone, bases, strict=True):
            project_null_space_([part], [basis])
        project_null_space_(parts, bases)
        for place, (part, other) in enumerate(zip(parts, alone, strict=True)):
            if place == number:
                assert part.isnan().all()
            else:
                assert relative_error(part, other) <= PROJECTION[dtype]
        assert torch.equal(buffer[sum(sizes) :], before[sum(sizes) :])
