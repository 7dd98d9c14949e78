"""The diagonal Fisher information of a small network, by our operation and by its peers.

Each function takes a network of linear layers, inputs [N, T, d] and targets [N, T, d], and returns one [dout, din]
tensor a layer: the sum over samples of the squared gradient of that sample's summed loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from safe_kernels import fisher_diagonal_

Estimator = Callable[[nn.Sequential, Tensor, Tensor], list[Tensor]]


def network(size: int, layers: int) -> nn.Sequential:
    """Linear layers without bias, with activations between them."""
    parts: list[nn.Module] = []
    for _ in range(layers):
        parts += [nn.Linear(size, size, bias=False), nn.Tanh()]
    return nn.Sequential(*parts)


def weights(model: nn.Sequential) -> list[Tensor]:
    """The layers' weights, in order."""
    return [module.weight for module in model if isinstance(module, nn.Linear)]


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Sum over samples and tokens."""
    return (outputs - targets).square().sum()


def plain(model: nn.Sequential, inputs: Tensor, targets: Tensor) -> list[Tensor]:
    """A forward and backward pass, as in training: no Fisher, the yardstick of its cost."""
    return list(torch.autograd.grad(loss(model(inputs), targets), weights(model)))


def by_safe_kernels(model: nn.Sequential, inputs: Tensor, targets: Tensor) -> list[Tensor]:
    """Our operation on each layer's inputs and output gradients; no gradient of a weight is formed."""
    seen: list[tuple[Tensor, Tensor]] = []

    def remember(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append((given[0], output))

    hooks = [module.register_forward_hook(remember) for module in model if isinstance(module, nn.Linear)]
    for weight in weights(model):
        weight.requires_grad_(False)
    value = loss(model(inputs.detach().requires_grad_()), targets)
    gradients = torch.autograd.grad(value, [output for _, output in seen])
    for hook in hooks:
        hook.remove()
    for weight in weights(model):
        weight.requires_grad_(True)
    return [
        fisher_diagonal_(torch.zeros(gradient.shape[-1], given.shape[-1], device=given.device), given, gradient)
        for (given, _), gradient in zip(seen, gradients, strict=True)
    ]


def batch_one_loop(model: nn.Sequential, inputs: Tensor, targets: Tensor) -> list[Tensor]:
    """One backward pass a sample."""
    totals = [torch.zeros_like(weight) for weight in weights(model)]
    for given, target in zip(inputs, targets, strict=True):
        for total, gradient in zip(totals, plain(model, given[None], target[None]), strict=True):
            total.addcmul_(gradient, gradient)
    return totals


def torch_func(model: nn.Sequential, inputs: Tensor, targets: Tensor) -> list[Tensor]:
    """Per-sample gradients by vmap."""
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def sample_loss(given: dict[str, Tensor], sample: Tensor, target: Tensor) -> Tensor:
        return loss(torch.func.functional_call(model, given, (sample[None],)), target[None])

    found = torch.func.vmap(torch.func.grad(sample_loss), in_dims=(None, 0, 0))(parameters, inputs, targets)
    return [gradient.square().sum(0) for gradient in found.values()]


def opacus(model: nn.Sequential, inputs: Tensor, targets: Tensor) -> list[Tensor]:
    """Per-sample gradients by Opacus' hooks."""
    from opacus.grad_sample import GradSampleModule

    wrapped: Any = GradSampleModule(model, loss_reduction="sum")
    loss(wrapped(inputs), targets).backward()
    found = [parameter.grad_sample.square().sum(0) for parameter in wrapped.parameters()]
    wrapped.zero_grad(set_to_none=True)
    for parameter in wrapped.parameters():
        parameter.grad_sample = None
    wrapped.to_standard_module()
    return found


def backpack(model: nn.Sequential, inputs: Tensor, targets: Tensor) -> list[Tensor]:
    """BackPACK's sum of squared gradients, on a fresh copy: its hooks stay on a module."""
    import copy

    import backpack as package
    from backpack.extensions import SumGradSquared

    extended: Any = package.extend(copy.deepcopy(model))
    with package.backpack(SumGradSquared()):
        loss(extended(inputs), targets).backward()
    return [parameter.sum_grad_squared for parameter in extended.parameters()]


PEERS: dict[str, Estimator] = {
    "batch-1 loop": batch_one_loop,
    "torch.func vmap": torch_func,
    "Opacus": opacus,
    "BackPACK": backpack,
}
