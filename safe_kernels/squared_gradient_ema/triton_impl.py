"""Launch of the Triton kernel of the squared-gradient average."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from safe_kernels._elementwise.triton_impl import Group, Rows, Split
from safe_kernels._tables import addresses
from safe_kernels._triton import PreparedLaunch
from safe_kernels.squared_gradient_ema import torch_impl
from safe_kernels.squared_gradient_ema.kernels import squared_gradient_ema_kernel


class SquaredGradientEmaLaunch:
    """The squared-gradient average of rows (Fisher, gradient), prepared for gradients of given dtypes and strides.

    Args:
        fishers: float32; they stay where they are.
        grads: of the same shapes; a call may bring others of the same dtypes and strides.
    """

    def __init__(self, fishers: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        self._split = Split((fishers, grads))
        self._fishers = fishers
        self._fixed = addresses(self._split.kept(fishers))
        columns = [self._split.kept(tensors) for tensors in (fishers, grads)]
        self._rows = Rows(columns, fishers[0].device, _prepare_launch)

    def __call__(self, grads: Sequence[Tensor], decay: float) -> None:
        """Move the Fishers towards the squared gradients."""
        rows, split = self._rows, self._split
        rows.refresh([self._fixed, addresses(split.kept(grads))])
        for group, launch in rows.groups:
            # 1 - decay in float64; in float32 it would be off by 2e-4 of itself for a decay of 0.9999
            launch(rows.addresses, rows.sizes, group.blocks, decay, 1.0 - decay)
        if split.rest:
            torch_impl.squared_gradient_ema_(split.left(self._fishers), split.left(grads), decay)


def _prepare_launch(group: Group) -> PreparedLaunch:
    return group.launch(squared_gradient_ema_kernel, GRAD=group.dtypes[1])
