r"""The elastic weight consolidation (EWC) penalty: a pull towards an anchor, by how much each parameter matters.

    (weight/2) sum F (theta - theta*)^2

with F the diagonal of the Fisher information (Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural
networks").
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from safe_kernels._checks import check_beside, check_floating, check_one_device, check_same_length
from safe_kernels._dtypes import WIDE_DTYPES
from safe_kernels.ewc_penalty import ops


def ewc_penalty_(
    params: Sequence[Tensor], anchors: Sequence[Tensor], fishers: Sequence[Tensor], weight: float
) -> Tensor:
    """Value of the EWC penalty for many tensors; its gradient is added to the parameters' `.grad` in the same pass.

        value = (weight/2) sum F (theta - theta*)^2          theta.grad += weight F (theta - theta*)

    Call it after `backward()` (or before: gradients accumulate either way), and do not call `backward()` on the value.
    `EwcPlan` does the same with a fraction of the time on the host, for tensors that stay from step to step.

    Args:
        params: parameters theta. A `.grad` of None is created; one of another dtype than the parameter's keeps its own.
        anchors: theta*, of the same shapes and of any floating dtype.
        fishers: F, of the same shapes, float32 or float64. A Fisher that is missing is an error: there is no silent
            fall-back to an unweighted distance.
        weight: factor of the penalty.

    Returns:
        The value, a scalar of the Fisher's dtype on the parameters' device; zero without parameters.

    Raises:
        TypeError: a dtype is not supported, or an entry is None.
        ValueError: numbers of tensors, a shape or device does not fit, or two gradients share memory.
    """
    check_tensors(params, anchors, fishers)
    if not params:
        return torch.zeros(())
    grads, detached = create_missing_gradients(params), [param.detach() for param in params]
    return ops.ewc_penalty(grads, detached, [anchor.detach() for anchor in anchors], list(fishers), float(weight))


def check_tensors(params: Sequence[Tensor], anchors: Sequence[Tensor], fishers: Sequence[Tensor]) -> None:
    """Raise unless the arguments of the penalty fit together."""
    check_same_length("anchors", anchors, "params", params)
    check_same_length("fishers", fishers, "params", params)
    for index, (param, anchor, fisher) in enumerate(zip(params, anchors, fishers, strict=True)):
        check_floating(f"params[{index}]", param)
        check_beside(f"anchors[{index}]", anchor, f"params[{index}]", param)
        check_beside(f"fishers[{index}]", fisher, f"params[{index}]", param)
        check_floating(f"fishers[{index}]", fisher, WIDE_DTYPES)
    check_one_device("params", params)


def create_missing_gradients(params: Sequence[Tensor]) -> list[Tensor]:
    """The parameters' gradients; zeros where there is none yet."""
    for param in params:
        if param.grad is None:
            param.grad = torch.zeros_like(param)
    return [param.grad for param in params if param.grad is not None]
