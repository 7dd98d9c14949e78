"""The EWC penalty as a PyTorch custom operator that adds to the gradients in place."""

from __future__ import annotations

import torch
from torch import Tensor

from safe_kernels._backend import choose_backend
from safe_kernels._tables import addresses, refuse_overlaps
from safe_kernels.ewc_penalty import torch_impl


@torch.library.custom_op("safe_kernels::ewc_penalty_", mutates_args=("grads",))
def ewc_penalty(
    grads: list[Tensor], params: list[Tensor], anchors: list[Tensor], fishers: list[Tensor], weight: float
) -> Tensor:
    """Value of the penalty, a scalar of the Fisher's dtype; `grads` receive its gradient."""
    refuse_overlaps("gradients", grads)
    if choose_backend(*fishers, *params, *anchors, *grads) == "triton":
        from safe_kernels.ewc_penalty import triton_impl

        return triton_impl.EwcLaunch(grads, params, anchors, fishers)(grads, addresses(params), weight)
    return torch_impl.ewc_penalty_(grads, params, anchors, fishers, weight)


@ewc_penalty.register_fake
def _(grads: list[Tensor], params: list[Tensor], anchors: list[Tensor], fishers: list[Tensor], weight: float) -> Tensor:
    return fishers[0].new_empty(())
