"""Negative control of `operators.py`, and the hook that registers FLOP formulas."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from tests.kernels.operators import opcheck


def test_opcheck_finds_an_undeclared_mutation() -> None:
    """An operator that changes its argument without saying so does not pass."""

    @torch.library.custom_op("safe_kernels_test::undeclared", mutates_args=())
    def undeclared(tensor: Tensor) -> Tensor:
        tensor.zero_()
        return tensor.clone()

    with pytest.raises(Exception, match=r"mutat|modif"):
        opcheck(undeclared, torch.randn(3))


COUNTER, KERNELS = "from torch.utils.flop_counter import FlopCounterMode", "import safe_kernels"


@pytest.mark.parametrize("imports", [(COUNTER, KERNELS), (KERNELS, COUNTER)], ids=["counter first", "kernels first"])
def test_flops_are_counted_in_either_order_of_imports(imports: tuple[str, str]) -> None:
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
