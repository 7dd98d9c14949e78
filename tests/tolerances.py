"""Every tolerance of the kernel tests, by dtype, with its reason. Errors are relative to float64, in Euclidean norm."""

from __future__ import annotations

import torch

# exp(x) - 1, exp(x) - 1 - x and log(cosh(x)), the worst element: rounding, times fourteen where exp(h) - 1 is a small
# part of what is just past the limit of the series.
ELEMENTARY = {torch.float64: 1e-14, torch.float32: 4e-6}

# Value of a divergence. float64: rounding of log-sum-exp over a KL of 1e-6. float32: difference form, KL down to 5e-7.
# Half precision: inputs are exact, logits are rounded once (2^-11 and 2^-8) by the head's matrix product on a GPU.
DIVERGENCE_VALUE = {torch.float64: 1e-8, torch.float32: 5e-4, torch.float16: 2e-3, torch.bfloat16: 1e-2}

# Gradient with respect to logits or hidden states. The result is stored in the input's dtype, which alone costs up to
# 2^-9 (bfloat16) and 2^-12 (float16); the GPU's logits add a few times that.
DIVERGENCE_GRADIENT = {torch.float64: 1e-8, torch.float32: 2e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}

# Sums of at most a few thousand squares in float32; half-precision inputs are exact, so they differ by nothing more.
# A GPU's matrix units cut sums off instead of rounding them: about 1e-6 for 512 tokens.
FISHER = {torch.float64: 1e-13, torch.float32: 1e-5, torch.float16: 1e-5, torch.bfloat16: 1e-5}

# One rounding of the parameter's gradient in its dtype after float32 arithmetic.
EWC_GRADIENT = {torch.float64: 1e-13, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}

# A projection, relative to the norm of the tensor before it. float32 may use three-term TF32 products (1e-6 each) on a
# GPU; half precision rounds the result once (the interpreter truncates, which costs twice as much).
PROJECTION = {torch.float64: 1e-13, torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}

# A half-precision tensor that lies inside the subspace, relative to its norm. What is left is 2^-9 (bfloat16) or 2^-12
# of it and rounded as much again; products of split operands add 2^-16, and the interpreter's truncation doubles all.
PROJECTION_INSIDE = {torch.float16: 5e-5, torch.bfloat16: 1e-4}

# Sine of the largest angle between a basis and its rounding to float16: entries are off by 2^-11 of themselves at most,
# by 2.1e-4 in the mean square. bfloat16 has three binary digits fewer, 1.7e-3.
ROUNDED_BASIS = 4e-4

# Largest entry of |U^T U - I| of a basis.
ORTHONORMAL = {torch.float64: 1e-12, torch.float32: 5e-6}

# Sine of the largest principal angle between two bases of one subspace, where the spectrum has a clear gap.
SUBSPACE = {torch.float64: 1e-6, torch.float32: 1e-4}

# Entries of a Gram matrix of gradients. From pairs of tokens it is all float64, where products that cancel leave more
# of their rounding; from gradients formed in float32, theirs (1e-7) remains.
GRAM = {torch.float64: 1e-12, torch.float32: 2e-6}


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """`||actual - expected|| / ||expected||` in float64; the plain norm of `actual` where `expected` is zero."""
    actual, expected = actual.detach().double().cpu(), expected.detach().double().cpu()
    scale = float(expected.norm())
    return float((actual - expected).norm()) / (scale if scale > 0 else 1.0)


# Share of an applied update that lies inside the protected subspace: rounding of the weights themselves (1e-7 of a
# weight of size 1) against updates of 1e-3 of a weight.
LEAKAGE = 1e-5

# Hidden states or logits of one row computed in batches of different make-up: the order of sums differs, a few rounding
# errors for each of a handful of layers.
LOGITS = {torch.float64: 1e-12, torch.float32: 2e-5}

# Two processes against one: change of the weights over six steps, Fisher diagonal and metrics. Shares are padded to
# other lengths and summed in another order, and AdamW's first steps divide the smallest gradients by their own size.
# It was 2e-4 with another embedded base: with this one losses of 1e-3 nats and small moments come up, of which rounding
# is a larger part (4.4e-4 seen). What it is to catch, a mean of means, is beyond a hundred times as much.
PARALLEL = {torch.float32: 6e-4}

# Sine as above, between bases of gradients that two processes and one have after steps of their own: the gradients
# themselves differ by rounding as told above, and small gaps of a spectrum amplify it (6e-4 seen, with text-only
# examples).
PARALLEL_SUBSPACE = {torch.float32: 2e-3}

# Bits of a text against log-softmax in float64: the hidden states of a row alone and in a padded batch differ by
# rounding (2e-5 of the logits), which averages out over tokens.
BITS = 1e-5

# Root mean square of a procedural clip: it is given to six decimals, and other processors round a sine otherwise.
CLIP_RMS = 2e-6

# What a tracker has recorded of a number: TensorBoard stores float32, 2^-24 off at most; the others store float64.
TRACKED = {
    "tensorboard": {"rel": 6e-8, "abs": 0.0}, "wandb": {"rel": 0.0, "abs": 0.0}, "trackio": {"rel": 0.0, "abs": 0.0},
    "mlflow": {"rel": 0.0, "abs": 0.0},
}  # fmt: skip
