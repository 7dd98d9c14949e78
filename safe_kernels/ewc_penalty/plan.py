"""The EWC penalty, prepared: checked once, with its tables kept on the device."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from safe_kernels._backend import choose_backend
from safe_kernels._checks import refuse_compilation
from safe_kernels._elementwise.forms import GRAD_FORMS, describe_forms
from safe_kernels._tables import Identities, addresses, refuse_overlaps
from safe_kernels.ewc_penalty import ops, torch_impl
from safe_kernels.ewc_penalty.api import check_tensors, create_missing_gradients

_GRAD: Callable[[Tensor], Tensor] = operator.attrgetter("grad")


class EwcPlan:
    """The EWC penalty of fixed parameters, prepared: `plan(weight)` is `ewc_penalty_`.

        value = (weight/2) sum F (theta - theta*)^2          theta.grad += weight F (theta - theta*)

    The tensors are checked here, and not at every call. A call looks up where the parameters and their gradients are;
    gradients may be made anew between calls, and parameters moved. Anchors and Fishers may be changed in place; one
    whose memory is exchanged (`.data = ...`) needs another plan.

    A CUDA graph may capture a call after one call outside of it, if parameters and gradients stay where they are
    (`zero_grad(set_to_none=False)`), then and later; the weight is part of the graph, and the plan must live as long as
    the graph. In code for `torch.compile` call `ewc_penalty_`.

    Args:
        params: parameters theta. A `.grad` of None is created by the call.
        anchors: theta*, of the same shapes and of any floating dtype.
        fishers: F, of the same shapes, float32 or float64. A Fisher that is missing is an error: there is no silent
            fall-back to an unweighted distance.

    Raises:
        TypeError: a dtype is not supported, or an entry is None.
        ValueError: numbers of tensors, a shape or device does not fit.
    """

    def __init__(self, params: Sequence[Tensor], anchors: Sequence[Tensor], fishers: Sequence[Tensor]) -> None:
        check_tensors(params, anchors, fishers)
        self._params = list(params)
        # Other handles of the same memory, which keep it from being given away.
        self._anchors = [anchor.detach() for anchor in anchors]
        self._fishers = [fisher.detach() for fisher in fishers]
        self._identities = Identities()
        self._places, self._grad_places = list[int](), list[int]()
        self._param_forms, self._grad_forms = list[Any](), list[Any]()
        self._launch: Callable[[Sequence[Tensor], list[int], float], Tensor] = self._fall_back

    @torch.no_grad()
    def __call__(self, weight: float) -> Tensor:
        """Add the penalty's gradient to the parameters' gradients.

        Args:
            weight: factor of the penalty.

        Returns:
            The value, a scalar of the Fisher's dtype on the parameters' device; zero without parameters.

        Raises:
            GraphCaptureError: a CUDA graph is being captured or has been, and a tensor is not where it was before.
            ValueError: two gradients share memory.
        """
        refuse_compilation("ewc_penalty_")
        if not self._params:
            return torch.zeros(())
        grads: Sequence[Tensor] = list(map(_GRAD, self._params))
        places = addresses(self._params)
        if not self._identities.same(grads) or places != self._places:
            grads = create_missing_gradients(self._params)
            self._prepare(grads, places)
        value = self._launch(grads, self._places, float(weight))
        torch.autograd.graph.increment_version(grads)  # a launch changes them behind autograd's back
        return value

    def _prepare(self, grads: Sequence[Tensor], places: list[int]) -> None:
        """Look at gradients that are new and at parameters that have moved, as far as they may differ from before."""
        grad_places = addresses(grads)
        if grad_places != self._grad_places:
            refuse_overlaps("gradients", grads)
        forms = describe_forms(grads, GRAD_FORMS)
        param_forms = self._param_forms if places == self._places else describe_forms(self._params)
        if forms != self._grad_forms or param_forms != self._param_forms:
            check_tensors(self._params, self._anchors, self._fishers)
            self._launch = self._choose_launch(grads)
        self._grad_places, self._grad_forms = grad_places, forms
        self._places, self._param_forms = places, param_forms
        self._identities.remember(grads)

    def _choose_launch(self, grads: Sequence[Tensor]) -> Callable[[Sequence[Tensor], list[int], float], Tensor]:
        if grads[0].is_meta:
            return self._trace
        if choose_backend(*self._fishers, *self._params, *self._anchors, *grads) == "torch":
            return self._fall_back
        from safe_kernels.ewc_penalty import triton_impl

        return triton_impl.EwcLaunch(grads, self._params, self._anchors, self._fishers)

    def _fall_back(self, grads: Sequence[Tensor], _: list[int], weight: float) -> Tensor:
        return torch_impl.ewc_penalty_(grads, self._params, self._anchors, self._fishers, weight)

    def _trace(self, grads: Sequence[Tensor], _: list[int], weight: float) -> Tensor:
        """On the meta device, where costs are counted: one operator, as it is one launch on a GPU."""
        return ops.ewc_penalty(list(grads), self._params, self._anchors, self._fishers, weight)
