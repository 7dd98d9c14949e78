"""The frozen base in parts: of every decoder layer each process holds a share, and gathers the layer while it runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import fully_shard

from safe_train.distributed.processes import Processes


def shard_base(model: Any, layers: Iterable[nn.Module], processes: Processes, device: torch.device) -> None:
    """Moves a base to the device, the decoder layers in shares, by PyTorch's FSDP2 (``fully_shard``).

    Of the weights of L layers, n processes hold 1/n each, and all of them those of one or two layers, gathered before
    the layer's forward and backward pass and dropped behind it. A gathered layer has the bits of the loaded one.
    Embedding, vision tower, norms and head stay whole in each process: they are few, are used outside of forward
    passes too (the head by the divergence), and a batch without an image passes the vision tower by in one process and
    not in another. What is trained is attached afterwards and stays whole.

    From here on forward passes are collective. ``generate`` knows by the mark that is set here that no process may end
    before the others.

    Args:
        model: the base as it was loaded, on the host, which can generate.
        layers: its decoder layers.
        processes: those that share it, more than one.
        device: of this process.
    """
    mesh = processes.mesh()
    layers = list(layers)
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    in_layers = {parameter for layer in layers for parameter in layer.parameters()}
    whole = {parameter for parameter in model.base_model.parameters() if parameter not in in_layers}
    fully_shard(model.base_model, mesh=mesh, ignored_params=whole)  # holds nothing, ties the layers together
    nn.Module.to(model, device)
    model._is_fsdp_managed_module = True  # transformers reads it
    processes.collective_forward = True
