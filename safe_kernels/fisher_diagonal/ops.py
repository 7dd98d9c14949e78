"""The Fisher diagonal as a PyTorch custom operator that adds to its argument in place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from safe_kernels._backend import choose_backend
from safe_kernels._flops import flop_formula
from safe_kernels.fisher_diagonal import torch_impl


@torch.library.custom_op("safe_kernels::fisher_diagonal_", mutates_args=("out",))
def fisher_diagonal(out: Tensor, inputs: Tensor, grad_outputs: Tensor) -> None:
    """`out += sum_n (sum_t grad_outputs[n,t] inputs[n,t]^T)^2`."""
    if choose_backend(out, inputs) == "triton":
        from safe_kernels.fisher_diagonal import triton_impl

        triton_impl.fisher_diagonal_(out, inputs, grad_outputs)
    else:
        torch_impl.fisher_diagonal_(out, inputs, grad_outputs)


@fisher_diagonal.register_fake
def _(out: Tensor, inputs: Tensor, grad_outputs: Tensor) -> None:
    return None


@flop_formula(torch.ops.safe_kernels.fisher_diagonal_)
def count_flops(out: torch.Size, inputs: torch.Size, grad_outputs: torch.Size, **_: Any) -> int:
    """One product of inputs and output gradients a sample: `2 N T din dout`."""
    samples, tokens, din = inputs
    return 2 * samples * tokens * din * grad_outputs[2]
