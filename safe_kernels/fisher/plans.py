"""Prepared forms of the operations on many tensors: checked once, with their tables kept on the device."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from safe_kernels._backend import choose_backend
from safe_kernels._checks import check_floating, check_one_device, check_same_device, check_same_length, check_shape
from safe_kernels._tables import Identities, addresses, refuse_overlaps
from safe_kernels.fisher import _ops, fallback

FISHER_DTYPES = (torch.float32, torch.float64)
_GRAD: Callable[[Tensor], Tensor] = operator.attrgetter("grad")
_Form = Callable[[Tensor], Any]
_GRAD_FORMS: list[_Form] = [operator.attrgetter("dtype"), Tensor.stride]
"""What a parameter's gradient may differ in: PyTorch takes none of another shape or device than the parameter's."""

_FORMS: list[_Form] = [*_GRAD_FORMS, *map(operator.attrgetter, ("shape", "device"))]


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
        check_ewc(params, anchors, fishers)
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
        _refuse_compilation("ewc_penalty_")
        if not self._params:
            return torch.zeros(())
        grads: Sequence[Tensor] = list(map(_GRAD, self._params))
        places = addresses(self._params)
        if not self._identities.same(grads) or places != self._places:
            grads = gradients(self._params)
            self._prepare(grads, places)
        value = self._launch(grads, self._places, float(weight))
        torch.autograd.graph.increment_version(grads)  # a launch changes them behind autograd's back
        return value

    def _prepare(self, grads: Sequence[Tensor], places: list[int]) -> None:
        """Look at gradients that are new and at parameters that have moved, as far as they may differ from before."""
        grad_places = addresses(grads)
        if grad_places != self._grad_places:
            refuse_overlaps("gradients", grads)
        forms = _forms(grads, _GRAD_FORMS)
        param_forms = self._param_forms if places == self._places else _forms(self._params)
        if forms != self._grad_forms or param_forms != self._param_forms:
            check_ewc(self._params, self._anchors, self._fishers)
            self._launch = self._prepared(grads)
        self._grad_places, self._grad_forms = grad_places, forms
        self._places, self._param_forms = places, param_forms
        self._identities.remember(grads)

    def _prepared(self, grads: Sequence[Tensor]) -> Callable[[Sequence[Tensor], list[int], float], Tensor]:
        if grads[0].is_meta:
            return self._trace
        if choose_backend(*self._fishers, *self._params, *self._anchors, *grads) == "torch":
            return self._fall_back
        from safe_kernels.fisher import triton

        return triton.EwcLaunch(grads, self._params, self._anchors, self._fishers)

    def _fall_back(self, grads: Sequence[Tensor], _: list[int], weight: float) -> Tensor:
        return fallback.ewc_penalty_(grads, self._params, self._anchors, self._fishers, weight)

    def _trace(self, grads: Sequence[Tensor], _: list[int], weight: float) -> Tensor:
        """On the meta device, where costs are counted: one operator, as it is one launch on a GPU."""
        return _ops.ewc_penalty(list(grads), self._params, self._anchors, self._fishers, weight)


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
            check_floating(f"fishers[{index}]", fisher, FISHER_DTYPES)
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
        _refuse_compilation("squared_gradient_ema_")
        check_decay(decay)
        if not self._identities.same(grads):
            self._prepare(grads)
        if self._fishers:
            self._launch(grads, float(decay))
            torch.autograd.graph.increment_version(self._fishers)  # a launch changes them behind autograd's back

    def _prepare(self, grads: Sequence[Tensor]) -> None:
        forms = _forms(grads)
        if forms != self._forms:
            check_average(self._fishers, grads)
            self._forms = forms
            self._launch = self._prepared(grads)
        self._identities.remember(grads)

    def _prepared(self, grads: Sequence[Tensor]) -> Callable[[Sequence[Tensor], float], None]:
        if not grads or choose_backend(*self._fishers, *grads) == "torch":
            return self._fall_back
        from safe_kernels.fisher import triton

        return triton.AverageLaunch(self._fishers, grads)

    def _fall_back(self, grads: Sequence[Tensor], decay: float) -> None:
        fallback.squared_gradient_ema_(self._fishers, grads, decay)


def gradients(params: Sequence[Tensor]) -> list[Tensor]:
    """The parameters' gradients; zeros where there is none yet."""
    for param in params:
        if param.grad is None:
            param.grad = torch.zeros_like(param)
    return [param.grad for param in params if param.grad is not None]


def _forms(tensors: Sequence[Tensor], kinds: Sequence[_Form] = _FORMS) -> list[list[Any]]:
    """What a launch is prepared for: where it is the same, only addresses have to be looked at."""
    return [list(map(kind, tensors)) for kind in kinds]


def check_ewc(params: Sequence[Tensor], anchors: Sequence[Tensor], fishers: Sequence[Tensor]) -> None:
    """Raise unless the arguments of the penalty fit together."""
    check_same_length("anchors", anchors, "params", params)
    check_same_length("fishers", fishers, "params", params)
    for index, (param, anchor, fisher) in enumerate(zip(params, anchors, fishers, strict=True)):
        check_floating(f"params[{index}]", param)
        _check_beside(f"anchors[{index}]", anchor, f"params[{index}]", param)
        _check_beside(f"fishers[{index}]", fisher, f"params[{index}]", param)
        check_floating(f"fishers[{index}]", fisher, FISHER_DTYPES)
    check_one_device("params", params)


def check_average(fishers: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
    """Raise unless there is a gradient of its shape for each Fisher."""
    check_same_length("grads", grads, "fishers", fishers)
    for index, (fisher, grad) in enumerate(zip(fishers, grads, strict=True)):
        check_floating(f"fishers[{index}]", fisher, FISHER_DTYPES)
        _check_beside(f"grads[{index}]", grad, f"fishers[{index}]", fisher)
    check_one_device("fishers", fishers)


def check_decay(decay: float) -> None:
    """Raise `ValueError` unless the share that is kept lies between nothing and all."""
    if not 0.0 <= decay <= 1.0:
        raise ValueError(f"decay: expected a number in [0, 1], got {decay}")


def _check_beside(name: str, tensor: Tensor | None, other_name: str, other: Tensor) -> None:
    if tensor is None:
        raise TypeError(f"{name}: expected a tensor, got None")
    check_floating(name, tensor)
    check_same_device(name, tensor, other_name, other)
    check_shape(name, tensor, other.shape)


def _refuse_compilation(function: str) -> None:
    if torch.compiler.is_compiling():
        raise RuntimeError(
            f"a prepared plan: expected a call outside of torch.compile, got one inside; call {function}"
        )
