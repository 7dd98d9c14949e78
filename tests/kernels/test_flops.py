"""PyTorch's counter counts the matrix products of every operator by their closed forms, as it does those of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from safe_kernels import (
    ewc_penalty_,
    fisher_diagonal_,
    kl_divergence,
    linear_kl_divergence,
    project_null_space_,
    squared_gradient_ema_,
)


def linear_kl(gradient: bool, teacher_width: int | None = None) -> None:
    """7 tokens of width 10 under a head of 40 classes, the teacher perhaps under another."""
    teacher = torch.randn(7, teacher_width or 10)
    head = None if teacher_width is None else torch.randn(40, teacher_width)
    student = torch.randn(7, 10, requires_grad=gradient)
    found = linear_kl_divergence(student, teacher, torch.randn(40, 10), teacher_head_weight=head)
    if gradient:
        found.backward()


def kl() -> None:
    kl_divergence(torch.randn(7, 40, requires_grad=True), torch.randn(7, 40)).backward()


def fisher(tokens: int) -> None:
    fisher_diagonal_(torch.zeros(4, 3), torch.randn(2, tokens, 3), torch.randn(2, tokens, 4))


def projection(shape: tuple[int, ...], dimension: int, rank: int) -> None:
    project_null_space_([torch.randn(shape), torch.randn(5)], [torch.eye(dimension)[:, :rank], torch.eye(5)[:, :1]])


def many(operation: Callable[[list[Tensor]], object]) -> None:
    operation([torch.ones(3, 4), torch.ones(5)])


FORMS: dict[str, tuple[str, Callable[[], None], int]] = {
    "linear_kl with the gradient": ("linear_kl_tokens", lambda: linear_kl(True), 3 * 2 * 7 * 40 * 10),
    "linear_kl without": ("linear_kl_tokens", lambda: linear_kl(False), 2 * 2 * 7 * 40 * 10),
    "linear_kl, two heads": ("linear_kl_tokens", lambda: linear_kl(True, 6), 2 * 7 * 40 * (2 * 10 + 6)),
    "fisher_diagonal": ("fisher_diagonal_", lambda: fisher(6), 2 * 2 * 6 * 3 * 4),
    "fisher_diagonal, one token": ("fisher_diagonal_", lambda: fisher(1), 2 * 2 * 3 * 4),
    "projection of rows": ("project_null_space_", lambda: projection((6, 8), 8, 3), 4 * 48 * 3 + 4 * 5),
    "projection of a vector": ("project_null_space_", lambda: projection((6, 8), 48, 3), 4 * 48 * 3 + 4 * 5),
    "projection of rank 0": ("project_null_space_", lambda: projection((6, 8), 8, 0), 4 * 5),
    # Without a product of matrices there is nothing to count, as for PyTorch's own element-wise operators.
    "kl": ("kl_tokens", kl, 0),
    "kl, backward": ("kl_tokens_backward", kl, 0),
    "squared_gradient_ema": (
        "squared_gradient_ema_", lambda: many(lambda tensors: squared_gradient_ema_(tensors, tensors, 0.9)), 0,
    ),
    "ewc_penalty": ("ewc_penalty_", lambda: many(lambda tensors: ewc_penalty_(tensors, tensors, tensors, 0.5)), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", list(FORMS))
def test_the_counter_counts_the_closed_form(name: str, backend: str) -> None:
    """Each product once, and not those of the implementation below it again."""
    _, run, flops = FORMS[name]
    with FlopCounterMode(display=False) as counter:
        run()
    assert counter.get_total_flops() == flops


def test_every_operator_has_a_closed_form_here() -> None:
    schemas = torch._C._jit_get_all_schemas()
    operators = {schema.name.removeprefix("safe_kernels::") for schema in schemas if "safe_kernels::" in schema.name}
    assert operators == {operator for operator, _, _ in FORMS.values()}


COUNTER, KERNELS = "from torch.utils.flop_counter import FlopCounterMode", "import safe_kernels"


@pytest.mark.parametrize("imports", [(COUNTER, KERNELS), (KERNELS, COUNTER)], ids=["counter first", "kernels first"])
def test_the_order_of_imports_does_not_matter(imports: tuple[str, str]) -> None:
    program = f"""
import torch
{imports[0]}
{imports[1]}
with FlopCounterMode(display=False) as counter:
    safe_kernels.fisher_diagonal_(torch.zeros(4, 3), torch.ones(2, 6, 3), torch.ones(2, 6, 4))
print(counter.get_total_flops())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 2 * 2 * 6 * 3 * 4
