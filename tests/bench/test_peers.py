"""Peers are called as their packages want it: stand-ins with their signatures, computing the definition."""

from __future__ import annotations

import inspect
import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import measure, test_linear_kl
from safe_kernels.linear_kl import reference


def divergence(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    return reference.linear_token_divergence(student, teacher, weight)


class LigerFusedLinearJSD(torch.nn.Module):
    """As in liger-kernel 0.8.5: no default for the labels; mean over tokens."""

    def __init__(
        self, jsd_beta: float = 0.5, ignore_index: int = -100, temperature: float = 1.0, accum_dtype: Any = None
    ) -> None:
        super().__init__()
        assert jsd_beta == 0.0  # the forward divergence

    def forward(
        self, student_input: Tensor, student_weight: Tensor, teacher_input: Tensor, teacher_weight: Tensor,
        shift_labels: Tensor | None,
    ) -> Tensor:  # fmt: skip
        assert student_weight is teacher_weight
        return divergence(student_input, teacher_input, student_weight).mean()


class LigerFusedLinearKLDivLoss(torch.nn.Module):
    """As in liger-kernel 0.8.5: the teacher's probabilities are given."""

    def __init__(
        self, reduction: str = "batchmean", ignore_index: int = -100, temperature: float = 1.0, eps: float = 1e-10,
        accum_dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        assert reduction == "sum"

    def forward(
        self, student_input: Tensor, student_weight: Tensor, target: Tensor, shift_labels: Tensor | None = None
    ) -> Tensor:
        logits = torch.log_softmax(student_input @ student_weight.T, -1)
        return (target * (target.log() - logits)).sum()


class FusedKLDivLoss(torch.nn.Module):
    """As in fla-core 0.6.0: mean over tokens alone."""

    def __init__(self, reduction: str = "batchmean", accumulate_grad_in_fp32: bool = True) -> None:
        super().__init__()
        assert reduction == "batchmean"

    def forward(self, x: Tensor, target_x: Tensor, weight: Tensor, target_weight: Tensor) -> Tensor:
        assert weight is target_weight
        return divergence(x, target_x, weight).mean()


STANDINS: dict[str, tuple[type[torch.nn.Module], ...]] = {
    "liger_kernel.transformers": (LigerFusedLinearJSD, LigerFusedLinearKLDivLoss),
    "fla.modules.fused_kl_div": (FusedKLDivLoss,),
}


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, classes in STANDINS.items():
        module = ModuleType(name)
        for standin in classes:
            setattr(module, standin.__name__, standin)
        for number in range(1, name.count(".") + 1):
            parent = name.rsplit(".", number)[0]
            monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(measure.torch.cuda, "is_available", lambda: True)


@pytest.mark.parametrize("name", list(test_linear_kl.FUSED))
def test_value_and_gradient_are_those_of_the_sum(peers: None, name: str) -> None:
    given = test_linear_kl.problem(6, 16, 90, 2e-2, torch.float32, "cpu")
    assert max(test_linear_kl.errors(test_linear_kl.FUSED[name], given)) < 1e-3


@pytest.mark.parametrize(("module", "standin"), [(m, s) for m, found in STANDINS.items() for s in found])
def test_standins_have_the_signatures_of_the_packages(module: str, standin: type) -> None:
    """Where a package is installed."""
    if find_spec(module.split(".")[0]) is None:
        pytest.skip(f"{module} is not installed")
    real = getattr(pytest.importorskip(module), standin.__name__)
    for method in ("__init__", "forward"):
        names = [list(inspect.signature(getattr(cls, method)).parameters) for cls in (real, standin)]
        assert names[0] == names[1]
