"""The Fisher diagonal as a PyTorch custom operator that adds to its argument in place."""

from __future__ import annotations

import torch
from torch import Tensor

from safe_kernels._backend import choose_backend
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
