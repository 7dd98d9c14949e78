"""The squared-gradient average as a PyTorch custom operator that changes the Fishers in place."""

from __future__ import annotations

import torch
from torch import Tensor

from safe_kernels._backend import choose_backend
from safe_kernels._tables import refuse_overlaps
from safe_kernels.squared_gradient_ema import torch_impl


@torch.library.custom_op("safe_kernels::squared_gradient_ema_", mutates_args=("fishers",))
def squared_gradient_ema(fishers: list[Tensor], grads: list[Tensor], decay: float) -> None:
    """`fisher <- decay fisher + (1 - decay) grad^2` for every pair."""
    refuse_overlaps("fishers", fishers)
    if choose_backend(*fishers, *grads) == "triton":
        from safe_kernels.squared_gradient_ema import triton_impl

        triton_impl.SquaredGradientEmaLaunch(fishers, grads)(grads, decay)
    else:
        torch_impl.squared_gradient_ema_(fishers, grads, decay)


@squared_gradient_ema.register_fake
def _(fishers: list[Tensor], grads: list[Tensor], decay: float) -> None:
    return None
