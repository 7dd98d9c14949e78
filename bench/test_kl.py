"""KL on given logits, forward and backward: two passes over the logits, 10 bytes an element in half precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.measure import OURS, Row, Work, compiled, peer, relative_error, run
from bench.rehearsal import sized
from safe_kernels import kl_divergence
from safe_kernels.kl import reference

pytestmark = pytest.mark.operation("kl_divergence")

CHECKED_TOKENS = 32
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}

Loss = Callable[[Tensor, Tensor], Tensor]


def ours(student: Tensor, teacher: Tensor) -> Tensor:
    """The operation."""
    return kl_divergence(student, teacher, reduction="sum")


def eager(student: Tensor, teacher: Tensor) -> Tensor:
    """What is usually written."""
    log_q = torch.log_softmax(student.float(), dim=-1)
    with torch.no_grad():
        log_p = torch.log_softmax(teacher.float(), dim=-1)
    return torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="sum")


def liger(student: Tensor, teacher: Tensor) -> Tensor:
    """Liger-Kernel's KL, which takes the student's log-probabilities and the teacher's probabilities."""
    module: Any = peer("liger_kernel.transformers", "Liger-Kernel")
    loss = module.LigerKLDIVLoss(reduction="sum", log_target=True)
    return loss(torch.log_softmax(student.float(), -1), torch.log_softmax(teacher.float(), -1))


def measure(benchmark: Any, device: torch.device, name: str, loss: Loss, shape: tuple[int, int]) -> None:
    """One row of the table."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    teacher = 3.0 * torch.randn(shape, device=device)
    student = (teacher + 0.02 * torch.randn(shape, device=device)).to(dtype).requires_grad_()
    teacher = teacher.to(dtype)

    def step(part: Tensor, against: Tensor) -> tuple[Tensor, Tensor]:
        value = loss(part, against)
        return value, torch.autograd.grad(value, part)[0]

    part = student.detach()[:CHECKED_TOKENS].requires_grad_()
    value, gradient = step(part, teacher[:CHECKED_TOKENS])
    wide = part.detach().double().requires_grad_()
    want = reference.token_divergence(wide, teacher[:CHECKED_TOKENS].double(), 1.0, "forward").sum()
    row = Row(
        operation="kl_divergence, forward and backward",
        size=f"N {shape[0]}, V {shape[1]}, {str(dtype).removeprefix('torch.')}",
        implementation=name,
        work=Work(traffic=5.0 * student.numel() * dtype.itemsize),
        error=max(relative_error(value, want), relative_error(gradient, torch.autograd.grad(want, wide)[0])),
        tolerance=TOLERANCE[dtype],
        rounds=5,
    )
    run(benchmark, row, lambda: step(student, teacher), device)


@pytest.mark.small
@pytest.mark.parametrize(("name", "loss"), [(OURS, ours), ("torch eager", eager)])
def test_small(benchmark: Any, device: torch.device, name: str, loss: Loss) -> None:
    """Sizes for a CPU."""
    measure(benchmark, device, name, loss, (256, 32000))


FULL = sized((8192, 152064), (6, 90))
NAMES = [OURS, "torch eager", "Liger KL"]
CASES = [*((name, FULL) for name in NAMES), *((name, sized((8192, 32000), (6, 50))) for name in NAMES)]


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "shape"), [*CASES, ("torch.compile", FULL)])
def test_full(benchmark: Any, device: torch.device, name: str, shape: tuple[int, int]) -> None:
    """Sizes of the published table; they need a GPU."""
    losses = {OURS: ours, "torch eager": eager, "torch.compile": compiled(eager), "Liger KL": liger}
    measure(benchmark, device, name, losses[name], shape)
