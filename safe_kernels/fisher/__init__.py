r"""Diagonal Fisher information of linear layers, and the elastic weight consolidation (EWC) penalty made from it.

For a linear layer with input a[n,t] and output gradient g[n,t], sample n's weight gradient is sum_t g[n,t] a[n,t]^T;

    F[i,j] = (1/N) sum_n (sum_t g[n,t,i] a[n,t,j])^2

is the diagonal of the empirical Fisher information if l_n is the sum of sample n's negative log-likelihoods (and of the
true Fisher if the labels are drawn from the model). Squaring the batch's gradient, or every token's, is another
quantity. The penalty that pulls parameters towards an anchor is (weight/2) sum F (theta - theta*)^2 (Kirkpatrick et al.
2017, "Overcoming catastrophic forgetting in neural networks").
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from safe_kernels._checks import (
    check_floating,
    check_rank,
    check_same_device,
    check_same_dtype,
    check_shape,
)
from safe_kernels.fisher import _ops
from safe_kernels.fisher.plans import (
    FISHER_DTYPES,
    EwcPlan,
    SquaredGradientEmaPlan,
    check_average,
    check_decay,
    check_ewc,
    gradients,
)

__all__ = ["EwcPlan", "SquaredGradientEmaPlan", "ewc_penalty_", "fisher_diagonal_", "squared_gradient_ema_"]


def fisher_diagonal_(out: Tensor, inputs: Tensor, grad_outputs: Tensor) -> Tensor:
    """Add a batch's squared per-sample weight gradients to an accumulator: `out += sum_n (sum_t g a^T)^2`.

    Sums are not divided by N: keep the number of samples beside `out`, add accumulators and counts to merge them, and
    divide at the end. No per-sample gradient is kept in memory. A layer that is used several times for one sample (tied
    or recurrent weights) is given its uses concatenated along T, so that they are summed before they are squared. The
    Fisher of a bias is that of a layer whose input is `torch.ones(N, T, 1)`. Padding tokens must have gradient zero.

    Args:
        out: [dout, din] accumulator, float32 or float64, contiguous; changed in place.
        inputs: [N, T, din] inputs of the layer; any floating dtype.
        grad_outputs: [N, T, dout] gradients of the samples' losses, summed (not averaged) over samples and tokens, with
            respect to the layer's outputs; same dtype as `inputs`.

    Returns:
        `out`.

    Raises:
        TypeError: a dtype is not supported.
        ValueError: a shape or device does not fit.
    """
    check_rank("inputs", inputs, "N, T, din")
    check_floating("inputs", inputs)
    check_rank("grad_outputs", grad_outputs, "N, T, dout")
    check_same_dtype("grad_outputs", grad_outputs, "inputs", inputs)
    check_same_device("grad_outputs", grad_outputs, "inputs", inputs)
    check_shape("grad_outputs", grad_outputs, (*inputs.shape[:2], grad_outputs.shape[2]))
    check_floating("out", out, FISHER_DTYPES)
    check_same_device("out", out, "inputs", inputs)
    check_shape("out", out, (grad_outputs.shape[2], inputs.shape[2]))
    _ops.fisher_diagonal(out, inputs.detach(), grad_outputs.detach())
    return out


def squared_gradient_ema_(fishers: Sequence[Tensor], grads: Sequence[Tensor], decay: float) -> None:
    """Exponential moving average of squared gradients, for many tensors: `F <- decay F + (1 - decay) g^2`.

    `SquaredGradientEmaPlan` does the same with a fraction of the time on the host, for Fishers that stay.

    Args:
        fishers: running averages, float32 or float64; changed in place.
        grads: gradients of the same shapes, any floating dtype.
        decay: share of the old average that is kept, in [0, 1].

    Raises:
        TypeError: a dtype is not supported.
        ValueError: numbers of tensors, a shape or device, or `decay` does not fit, or two Fishers share memory.
    """
    check_decay(decay)
    check_average(fishers, grads)
    if fishers:
        _ops.squared_gradient_ema(list(fishers), [grad.detach() for grad in grads], float(decay))


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
    check_ewc(params, anchors, fishers)
    if not params:
        return torch.zeros(())
    grads, detached = gradients(params), [param.detach() for param in params]
    return _ops.ewc_penalty(grads, detached, [anchor.detach() for anchor in anchors], list(fishers), float(weight))
