"""The squared-gradient average, prepared: checked once, with its tables kept on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from safe_kernels._backend import choose_backend
from safe_kernels._checks import check_floating, check_one_device, refuse_compilation
from safe_kernels._dtypes import WIDE_DTYPES
from safe_kernels._elementwise.forms import describe_forms
from safe_kernels._tables import Identities, refuse_overlaps
from safe_kernels.squared_gradient_ema import torch_impl
from safe_kernels.squared_gradient_ema.api import check_decay, check_tensors


class SquaredGradientEmaPlan:
    """The squared-gradient average of fixed Fishers, prepared: `plan(grads, decay)` is `squared_gradient_ema_`.

        F <- decay F + (1 - decay) g^2

    The Fishers are checked here, gradients when they are other tensors than at the call before. A Fisher whose memory
    is exchanged (`.data = ...`) needs another plan. A CUDA graph may capture a call after one outside of it with the
    same gradients; the decay is part of the graph, and the plan must live as long as the graph. In code for
    `torch.compile` call `squared_gradient_ema_`.

    Args:
        fishers: running averages, float32 or float64; changed in place by the calls.

    Raises:
        TypeError: a dtype is not supported.
        ValueError: Fishers are on several devices, or two share memory.
    """

    def __init__(self, fishers: Sequence[Tensor]) -> None:
        for index, fisher in enumerate(fishers):
            check_floating(f"fishers[{index}]", fisher, WIDE_DTYPES)
        check_one_device("fishers", fishers)
        refuse_overlaps("fishers", fishers)
        self._fishers = [fisher.detach() for fisher in fishers]
        self._identities = Identities()
        self._forms: list[Any] = []
        self._launch: Callable[[Sequence[Tensor], float], None] = self._fall_back

    @torch.no_grad()
    def __call__(self, grads: Sequence[Tensor], decay: float) -> None:
        """Move the Fishers towards the squared gradients.

        Args:
            grads: gradients of the Fishers' shapes, any floating dtype.
            decay: share of the old average that is kept, in [0, 1].

        Raises:
            GraphCaptureError: a CUDA graph is being captured or has been, and a gradient is not where it was before.
            TypeError: a dtype is not supported.
            ValueError: number of gradients, a shape or device, or `decay` does not fit.
        """
        refuse_compilation("squared_gradient_ema_")
        check_decay(decay)
        if not self._identities.same(grads):
            self._prepare(grads)
        if self._fishers:
            self._launch(grads, float(decay))
            torch.autograd.graph.increment_version(self._fishers)  # a launch changes them behind autograd's back

    def _prepare(self, grads: Sequence[Tensor]) -> None:
        forms = describe_forms(grads)
        if forms != self._forms:
            check_tensors(self._fishers, grads)
            self._forms = forms
            self._launch = self._choose_launch(grads)
        self._identities.remember(grads)

    def _choose_launch(self, grads: Sequence[Tensor]) -> Callable[[Sequence[Tensor], float], None]:
        if not grads or choose_backend(*self._fishers, *grads) == "torch":
            return self._fall_back
        from safe_kernels.squared_gradient_ema import triton_impl

        return triton_impl.SquaredGradientEmaLaunch(self._fishers, grads)

    def _fall_back(self, grads: Sequence[Tensor], decay: float) -> None:
        torch_impl.squared_gradient_ema_(self._fishers, grads, decay)
