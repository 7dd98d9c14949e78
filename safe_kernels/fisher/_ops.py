"""The Fisher operations as PyTorch custom operators that change an argument in place."""

from __future__ import annotations

import torch
from torch import Tensor

from safe_kernels._backend import choose_backend
from safe_kernels._tables import addresses, refuse_overlaps
from safe_kernels.fisher import fallback


@torch.library.custom_op("safe_kernels::fisher_diagonal_", mutates_args=("out",))
def fisher_diagonal(out: Tensor, inputs: Tensor, grad_outputs: Tensor) -> None:
    """`out += sum_n (sum_t grad_outputs[n,t] inputs[n,t]^T)^2`."""
    if choose_backend(out, inputs) == "triton":
        from safe_kernels.fisher import triton

        triton.fisher_diagonal_(out, inputs, grad_outputs)
    else:
        fallback.fisher_diagonal_(out, inputs, grad_outputs)


@fisher_diagonal.register_fake
def _(out: Tensor, inputs: Tensor, grad_outputs: Tensor) -> None:
    return None


@torch.library.custom_op("safe_kernels::squared_gradient_ema_", mutates_args=("fishers",))
def squared_gradient_ema(fishers: list[Tensor], grads: list[Tensor], decay: float) -> None:
    """`fisher <- decay fisher + (1 - decay) grad^2` for every pair."""
    refuse_overlaps("fishers", fishers)
    if choose_backend(*fishers, *grads) == "triton":
        from safe_kernels.fisher import triton

        triton.AverageLaunch(fishers, grads)(grads, decay)
    else:
        fallback.squared_gradient_ema_(fishers, grads, decay)


@squared_gradient_ema.register_fake
def _(fishers: list[Tensor], grads: list[Tensor], decay: float) -> None:
    return None


@torch.library.custom_op("safe_kernels::ewc_penalty_", mutates_args=("grads",))
def ewc_penalty(
    grads: list[Tensor], params: list[Tensor], anchors: list[Tensor], fishers: list[Tensor], weight: float
) -> Tensor:
    """Value of the penalty, a scalar of the Fisher's dtype; `grads` receive its gradient."""
    refuse_overlaps("gradients", grads)
    if choose_backend(*fishers, *params, *anchors, *grads) == "triton":
        from safe_kernels.fisher import triton

        return triton.EwcLaunch(grads, params, anchors, fishers)(grads, addresses(params), weight)
    return fallback.ewc_penalty_(grads, params, anchors, fishers, weight)


@ewc_penalty.register_fake
def _(grads: list[Tensor], params: list[Tensor], anchors: list[Tensor], fishers: list[Tensor], weight: float) -> Tensor:
    return fishers[0].new_empty(())
