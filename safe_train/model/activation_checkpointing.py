"""Gradient checkpointing of decoder layers in evaluation mode: recomputes the activations inside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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


@contextmanager
def checkpointed(layers: Iterable[nn.Module], state: State) -> Iterator[None]:
    """:func:`checkpoint_layers` for the forward passes inside the block; their backward passes may come behind it."""
    layers = list(layers)
    own = [vars(layer).get("forward") for layer in layers]
    checkpoint_layers(layers, state)
    try:
        yield
    finally:
        for layer, before in zip(layers, own, strict=True):
            if before is None:
                del layer.forward
            else:
                layer.forward = before


def _recompute(forward: Callable[..., Any], state: State, *arguments: Any, **keywords: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*arguments, **keywords)
    again = state()
    return checkpoint(
        forward,
        *arguments,
        use_reentrant=False,
        preserve_rng_state=False,  # in evaluation mode nothing is drawn
        context_fn=lambda: (nullcontext(), again),
        **keywords,
    )
