"""Gradient checkpointing of the frozen decoder: recomputes the activations inside its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

State = Callable[[], AbstractContextManager[None]]


def checkpoint_layers(layers: Iterable[nn.Module], state: State) -> None:
    """Stores only the input of each layer's forward pass, and recomputes the pass in the backward pass.

    The library's own switch is not used: it needs the layers in training mode, in which some of them drop units.
    What hangs on a layer's output (a fusion) lies outside and is kept: it is small beside the layer, and by the time of
    the backward pass the audio is no longer attached. Method: Chen et al. 2016, arXiv:1604.06174.

    Args:
        layers: whose ``forward`` is replaced, each on the instance; without gradients it does what it did.
        state: called in the forward pass; returns a context in which the pass can be repeated unchanged.
    """
    for layer in layers:
        layer.forward = partial(_recompute, layer.forward, state)


def _recompute(forward: Callable[..., Any], state: State, *arguments: Any, **keywords: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*arguments, **keywords)
    again = state()
    return checkpoint(
        forward,
        *arguments,
        use_reentrant=False,
        preserve_rng_state=False,  # a frozen base in evaluation mode draws nothing
        context_fn=lambda: (nullcontext(), again),
        **keywords,
    )
