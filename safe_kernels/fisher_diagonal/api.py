r"""Diagonal Fisher information of linear layers.

For a linear layer with input a[n,t] and output gradient g[n,t], sample n's weight gradient is sum_t g[n,t] a[n,t]^T;

    F[i,j] = (1/N) sum_n (sum_t g[n,t,i] a[n,t,j])^2

is the diagonal of the empirical Fisher information if l_n is the sum of sample n's negative log-likelihoods (and of the
true Fisher if the labels are drawn from the model). Squaring the batch's gradient, or every token's, is another
quantity.
"""

from __future__ import annotations

from torch import Tensor

from safe_kernels._checks import (
    check_floating,
    check_rank,
    check_same_device,
    check_same_dtype,
    check_shape,
)
from safe_kernels._dtypes import WIDE_DTYPES
from safe_kernels.fisher_diagonal import ops


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
    check_floating("out", out, WIDE_DTYPES)
    check_same_device("out", out, "inputs", inputs)
    check_shape("out", out, (grad_outputs.shape[2], inputs.shape[2]))
    ops.fisher_diagonal(out, inputs.detach(), grad_outputs.detach())
    return out
