"""Launch of the Triton kernel of the EWC penalty."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from safe_kernels._elementwise.triton_impl import Group, Rows, Split
from safe_kernels._tables import addresses
from safe_kernels._triton import PreparedLaunch
from safe_kernels.ewc_penalty import torch_impl
from safe_kernels.ewc_penalty.kernels import ewc_kernel


class EwcLaunch:
    """The penalty of rows (gradient, parameter, anchor, Fisher), prepared for gradients of given dtypes and strides.

    Args:
        grads: where the penalty's gradient is added; a call may bring others of the same dtypes and strides.
        params: parameters.
        anchors: of the same shapes; these and the Fishers stay where they are.
        fishers: float32.
    """

    def __init__(
        self, grads: Sequence[Tensor], params: Sequence[Tensor], anchors: Sequence[Tensor], fishers: Sequence[Tensor]
    ) -> None:
        self._split = Split((grads, params, anchors, fishers))
        self._params, self._anchors, self._fishers = params, anchors, fishers
        self._anchor_places, self._fisher_places = (addresses(self._split.kept(fixed)) for fixed in (anchors, fishers))
        columns = [self._split.kept(tensors) for tensors in (grads, params, anchors, fishers)]
        self._rows = Rows(columns, fishers[0].device, _prepare_launch)

    def __call__(self, grads: Sequence[Tensor], places: list[int], weight: float) -> Tensor:
        """Add the penalty's gradient to `grads`, and return its value; `places` are the parameters' addresses."""
        rows, split = self._rows, self._split
        rows.refresh([addresses(split.kept(grads)), split.kept(places), self._anchor_places, self._fisher_places])
        partial = torch.empty(rows.programs, dtype=torch.float32, device=self._fishers[0].device)
        for group, launch in rows.groups:
            launch(rows.addresses, rows.sizes, group.blocks, partial[group.first :] if group.first else partial, weight)
        value = partial.sum()
        if split.rest:
            left = split.left
            value += torch_impl.ewc_penalty_(
                left(grads), left(self._params), left(self._anchors), left(self._fishers), weight
            )
        return value


def _prepare_launch(group: Group) -> PreparedLaunch:
    grad, param, anchor, _ = group.dtypes
    return group.launch(ewc_kernel, GRAD=grad, PARAM=param, ANCHOR=anchor)
