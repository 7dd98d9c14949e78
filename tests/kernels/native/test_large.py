"""More than 2^31 elements: offsets no longer fit into 32 bits. The ends of the tensors are compared with float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from bench.rehearsal import sized
from safe_kernels import (
    ewc_penalty_,
    kl_divergence,
    linear_kl_divergence,
    project_null_space_,
    squared_gradient_ema_,
)
from safe_kernels.kl import reference as kl_reference
from safe_kernels.linear_kl.reference import linear_token_divergence
from safe_kernels.project_null_space import reference as null_space_reference
from safe_kernels.squared_gradient_ema.reference import squared_gradient_ema
from tests.tolerances import DIVERGENCE_GRADIENT, DIVERGENCE_VALUE, EWC_GRADIENT, FISHER, PROJECTION, relative_error

pytestmark = [pytest.mark.gpu, pytest.mark.xdist_group("large")]

DTYPE = torch.bfloat16
CLASSES = sized(152064, 90)
TOKENS = sized(2**31 // 152064 + 30, 12)
COLUMNS = sized(4096, 16)
ROWS = sized(2**31 // 4096 + 3, 6)
CHECKED = 4
"""Tokens or rows compared at each end."""


@pytest.fixture(autouse=True)
def unpoisoned() -> Iterator[None]:
    """Filling what is allocated would take longer than the tests."""
    before = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = False
    yield
    torch.utils.deterministic.fill_uninitialized_memory = before


def test_sizes_are_beyond_32_bits() -> None:
    assert sized(TOKENS * CLASSES > 2**31 and ROWS * COLUMNS > 2**31, True)


def ends(tensor: Tensor) -> Tensor:
    """First and last rows, in float64."""
    return torch.cat([tensor[:CHECKED], tensor[-CHECKED:]]).detach().double()


def random(rows: int, columns: int, device: torch.device) -> Tensor:
    return torch.randn(rows, columns, device=device, dtype=DTYPE)


def test_divergence_of_logits(native_device: torch.device) -> None:
    teacher = random(TOKENS, CLASSES, native_device).mul_(3.0)
    student = torch.add(teacher, random(TOKENS, CLASSES, native_device), alpha=0.1).requires_grad_()
    values = kl_divergence(student, teacher, reduction="none")
    (gradient,) = torch.autograd.grad(values.sum(), student)
    leaf, other = ends(student), ends(teacher)
    want = kl_reference.token_divergence(leaf.requires_grad_(), other, 1.0, "forward")
    (want_gradient,) = torch.autograd.grad(want.sum(), leaf)
    assert relative_error(ends(values), want) < DIVERGENCE_VALUE[DTYPE]
    assert relative_error(ends(gradient), want_gradient) < DIVERGENCE_GRADIENT[DTYPE]


def test_divergence_under_a_head_in_one_chunk(native_device: torch.device) -> None:
    teacher = random(TOKENS, 64, native_device)
    student = torch.add(teacher, random(TOKENS, 64, native_device), alpha=0.1).requires_grad_()
    weight = random(CLASSES, 64, native_device) * (3.0 / 8.0)
    values = linear_kl_divergence(student, teacher, weight, chunk_tokens=TOKENS, reduction="none")
    (gradient,) = torch.autograd.grad(values.sum(), student)
    leaf, other = ends(student), ends(teacher)
    want = linear_token_divergence(leaf.requires_grad_(), other, weight.double())
    (want_gradient,) = torch.autograd.grad(want.sum(), leaf)
    assert relative_error(ends(values), want) < DIVERGENCE_VALUE[DTYPE]
    assert relative_error(ends(gradient), want_gradient) < DIVERGENCE_GRADIENT[DTYPE]


def test_average_of_squared_gradients(native_device: torch.device) -> None:
    fisher = torch.rand(ROWS, COLUMNS, device=native_device)
    grad = random(ROWS, COLUMNS, native_device)
    want = squared_gradient_ema(ends(fisher), ends(grad), 0.9)
    squared_gradient_ema_([fisher], [grad], 0.9)
    assert relative_error(ends(fisher), want) < FISHER[DTYPE]


def test_penalty(native_device: torch.device) -> None:
    param = random(ROWS, COLUMNS, native_device).requires_grad_()
    anchor = torch.add(param.detach(), 0.5)
    fisher = torch.rand(ROWS, COLUMNS, device=native_device)
    here, there, weights = ends(param), ends(anchor), ends(fisher)
    value = ewc_penalty_([param], [anchor], [fisher], 0.5)
    assert param.grad is not None
    assert relative_error(ends(param.grad), 0.5 * weights * (here - there)) < EWC_GRADIENT[DTYPE]
    parts = (tensor.detach().split(sized(2**14, 2)) for tensor in (param, anchor, fisher))
    terms = [(f.double() * (p.double() - a.double()).square()).sum() for p, a, f in zip(*parts, strict=True)]
    assert relative_error(value, 0.25 * torch.stack(terms).sum()) < FISHER[DTYPE]


@pytest.mark.parametrize("rank", [8, 33])
def test_projection_of_rows(native_device: torch.device, rank: int) -> None:
    tensor = random(ROWS, COLUMNS, native_device)
    basis = torch.linalg.qr(torch.randn(COLUMNS, min(rank, COLUMNS), device=native_device))[0].contiguous()
    before = ends(tensor)
    project_null_space_([tensor], [basis])
    want = null_space_reference.projected(before, basis.double())
    assert float((ends(tensor) - want).norm()) < PROJECTION[DTYPE] * float(before.norm())
