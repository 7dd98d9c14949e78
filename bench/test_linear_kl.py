"""Linear KL under one frozen head, forward and backward: 6 N V H operations, whatever the method.

The head is read twice at least: the gradient needs each class's probability, which is known when all classes are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.measure import OURS, Row, Work, compiled, peer, relative_error, run
from bench.rehearsal import sized
from safe_kernels import linear_kl_divergence
from safe_kernels.linear_kl import reference

pytestmark = pytest.mark.operation("linear_kl_divergence")

CHECKED_TOKENS = 32
"""Tokens compared with float64; each token's result depends on no other."""

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}

Problem = tuple[Tensor, Tensor, Tensor]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def ours(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    """The operation."""
    return linear_kl_divergence(student, teacher, weight, reduction="sum")


def eager(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    """What is usually written: two float32 log-softmaxes."""
    log_q = torch.log_softmax((student @ weight.T).float(), dim=-1)
    with torch.no_grad():
        log_p = torch.log_softmax((teacher @ weight.T).float(), dim=-1)
    return torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="sum")


def liger(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    """Liger-Kernel's fused linear JSD at its forward-KL end; it needs gradients for nothing but the student."""
    module: Any = peer("liger_kernel.transformers", "Liger-Kernel")
    loss = module.LigerFusedLinearJSD(jsd_beta=0.0, temperature=1.0)
    return loss(student, weight, teacher, weight, shift_labels=None) * student.shape[0]


def liger_kl(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    """Liger-Kernel's fused linear KL, which takes the teacher's probabilities: they are formed first, [N, V]."""
    module: Any = peer("liger_kernel.transformers", "Liger-Kernel")
    with torch.no_grad():
        target = torch.softmax(teacher @ weight.T, dim=-1, dtype=torch.float32)
    return module.LigerFusedLinearKLDivLoss(reduction="sum")(student, weight, target)


def fla(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    """flash-linear-attention's fused linear KL, whose mean over tokens is its only reduction."""
    module: Any = peer("fla.modules.fused_kl_div", "flash-linear-attention")
    return module.FusedKLDivLoss()(student, teacher, weight, weight) * student.shape[0]


PEERS: dict[str, Loss] = {OURS: ours, "torch eager": eager}
FUSED: dict[str, Loss] = {
    "Liger fused linear JSD": liger,
    "Liger fused linear KL": liger_kl,
    "flash-linear-attention fused linear KL": fla,
}


def problem(
    tokens: int, hidden: int, classes: int, divergence: float, dtype: torch.dtype, device: torch.device | str
) -> Problem:
    """Hidden states at a distance that gives about the wanted divergence (distance^2 / 2 for unit logits)."""
    teacher = torch.randn(tokens, hidden, device=device)
    student = teacher + (2.0 * divergence) ** 0.5 * torch.randn(tokens, hidden, device=device)
    weight = torch.randn(classes, hidden, device=device) / hidden**0.5
    return student.to(dtype).requires_grad_(), teacher.to(dtype), weight.to(dtype)


def errors(loss: Loss, given: Problem) -> tuple[float, float]:
    """Relative errors of value and gradient against float64, over the first tokens."""
    student, teacher, weight = given
    part = student.detach()[:CHECKED_TOKENS].requires_grad_()
    value = loss(part, teacher[:CHECKED_TOKENS], weight)
    (gradient,) = torch.autograd.grad(value, part)
    wide = part.detach().double().requires_grad_()
    want = reference.linear_token_divergence(wide, teacher[:CHECKED_TOKENS].double(), weight.double()).sum()
    (want_gradient,) = torch.autograd.grad(want, wide)
    return relative_error(value, want), relative_error(gradient, want_gradient)


def measure(benchmark: Any, device: torch.device, name: str, loss: Loss, given: Problem) -> None:
    """One row: forward and backward."""
    student, teacher, weight = given
    (tokens, hidden), classes = student.shape, weight.shape[0]

    def step() -> None:
        student.grad = None
        loss(student, teacher, weight).backward()

    row = Row(
        operation="linear_kl_divergence, forward and backward",
        size=f"N {tokens}, H {hidden}, V {classes}, {str(student.dtype).removeprefix('torch.')}",
        implementation=name,
        work=Work(flops=6.0 * tokens * hidden * classes, traffic=2.0 * weight.nbytes),
        error=max(errors(loss, given)),
        tolerance=TOLERANCE[student.dtype],
    )
    run(benchmark, row, step, device)


@pytest.mark.small
@pytest.mark.parametrize("name", [OURS, "torch eager"])
def test_small(benchmark: Any, device: torch.device, name: str) -> None:
    """Sizes for a CPU."""
    measure(benchmark, device, name, PEERS[name], problem(512, 1024, 32000, 2e-4, torch.float32, "cpu"))


@pytest.mark.small
@pytest.mark.filterwarnings("ignore")
def test_small_compiled(benchmark: Any, device: torch.device) -> None:
    """Sizes for a CPU."""
    loss = torch.compile(eager)
    measure(benchmark, device, "torch.compile", loss, problem(512, 1024, 32000, 2e-4, torch.float32, "cpu"))


FULL = sized((8192, 4096, 152064), (6, 16, 90))
NAMES = [*PEERS, *FUSED]
CASES = [(name, FULL) for name in NAMES]
CASES += [(name, shape) for shape in sized([(8192, 4096, 32000), (64, 4096, 32064)], [(5, 16, 40)]) for name in NAMES]


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "shape"), [*CASES, ("torch.compile", FULL)])
def test_full(benchmark: Any, device: torch.device, name: str, shape: tuple[int, int, int]) -> None:
    """Sizes of the published table, and the tens of tokens of a Stage A step; they need a GPU."""
    losses = {**PEERS, **FUSED, "torch.compile": compiled(eager)}
    measure(benchmark, device, name, losses[name], problem(*shape, 2e-4, torch.bfloat16, device))


@pytest.mark.small
@pytest.mark.parametrize("divergence", [5e-7, 2e-4, 2e-2])
@pytest.mark.parametrize("name", ["safe_kernels", "torch eager", "torch eager, bfloat16 logits"])
def test_error_table(benchmark: Any, device: torch.device, name: str, divergence: float) -> None:
    """Errors against float64 as the divergence shrinks; the time is of the checked tokens alone."""
    given = problem(CHECKED_TOKENS, 1024, 32000, divergence, torch.float32, "cpu")

    def rounded(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
        log_q = torch.log_softmax((student @ weight.T).bfloat16().float(), dim=-1)
        log_p = torch.log_softmax((teacher @ weight.T).bfloat16().float(), dim=-1)
        return (log_p.exp() * (log_p - log_q)).sum()

    loss = {OURS: ours, "torch eager": eager}.get(name, rounded)
    value_error, gradient_error = errors(loss, given)
    assert name != OURS or max(value_error, gradient_error) < TOLERANCE[torch.float32]
    benchmark.group = "linear_kl_divergence, error against float64"
    benchmark.pedantic(lambda: loss(*given), rounds=1)
    benchmark.extra_info.update(
        error_table="linear_kl_divergence, N 32, H 1024, V 32000, float32",
        implementation=name,
        divergence=eager(*(tensor.detach().double() for tensor in given)).item() / CHECKED_TOKENS,
        value_error=value_error,
        gradient_error=gradient_error,
    )
