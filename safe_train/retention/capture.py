"""Inputs and output gradients of linear layers, from which per-sample gradients follow without being formed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn


class LinearCapture:
    """Records, inside a ``with`` block, the factors of each linear layer's weight gradient.

    For ``y = x W^T`` the gradient of sample n is ``sum_t g[n,t] x[n,t]^T``. The weights' own gradients are disabled
    meanwhile, so a backward pass computes nothing more and does not touch ``.grad``. A layer that is used several
    times has its uses joined along t, so that they are summed before anything is squared.
    """

    def __init__(
        self,
        linears: Mapping[str, nn.Linear],
        recorded: Collection[str] | None = None,
        *,
        num_samples: int | None = None,
    ) -> None:
        """Takes the layers by name.

        Args:
            linears: the layers whose weights' own gradients are switched off.
            recorded: those of them that are recorded; None for all.
            num_samples: samples of a forward pass, None if not known. With one sample, all that a layer gets is that
                sample's, whatever its shape: patches or tiles of images, tokens that are routed to an expert.

        Raises:
            ValueError: a layer has a trained bias; its gradient would be lost.
        """
        for name, module in linears.items():
            if module.bias is not None and module.bias.requires_grad:
                raise ValueError(f"{name}: expected a linear layer without a trained bias, got one; freeze the bias")
        self.linears = dict(linears)
        self.recorded = set(linears) if recorded is None else set(recorded)
        self.num_samples = num_samples
        self._uses: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> LinearCapture:
        self._uses = {name: [] for name in self.linears}
        for name, module in self.linears.items():
            module.weight.requires_grad_(False)
            if name in self.recorded:
                self._handles.append(module.register_forward_hook(self._recorder(name)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for module in self.linears.values():
            module.weight.requires_grad_(True)

    def _recorder(self, name: str) -> Any:
        def record(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if not torch.is_grad_enabled():
                return
            if not output.requires_grad:  # the first trained layer of the graph: nothing before it needs a gradient
                output.requires_grad_(True)
            x = self._by_sample(inputs[0].detach(), name)
            output.register_hook(
                lambda gradient: self._uses[name].append((x, self._by_sample(gradient.detach(), name)))
            )

        return record

    def _by_sample(self, states: Tensor, name: str) -> Tensor:
        """[N, d] or [N, ..., d] as [N, T, d].

        Raises:
            ValueError: the leading axis is not that of the samples, so that none of them could be told from another.
        """
        if self.num_samples == 1:
            return states.reshape(1, -1, states.shape[-1])
        if self.num_samples not in (None, states.shape[0]):
            shape = list(states.shape)
            raise ValueError(f"{name}: expected states of {self.num_samples} samples, got {shape}; take one at a time")
        return states[:, None] if states.dim() == 2 else states.flatten(1, -2)

    @staticmethod
    def backward(loss: Tensor) -> None:
        """The backward pass, unless no recorded layer was used, as no vision tower is by rows without an image."""
        if loss.requires_grad:
            loss.backward()

    def take(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Inputs [N, T, d_in] and output gradients [N, T, d_out] of each layer that was used since the last call."""
        taken = {
            name: (_join([x for x, _ in uses]), _join([g for _, g in uses]))
            for name, uses in self._uses.items()
            if uses
        }
        self._uses = {name: [] for name in self.linears}
        return taken


def per_sample_gradients(inputs: Tensor, grad_outputs: Tensor) -> Tensor:
    """Flat weight gradients [N, d_out * d_in] in float32 of inputs [N, T, d_in] and output gradients [N, T, d_out]."""
    return torch.einsum("nto,nti->noi", grad_outputs.float(), inputs.float()).flatten(1)


def _join(uses: list[Tensor]) -> Tensor:
    """One after the other along t; of a layer that is used once, what was recorded and no copy."""
    return uses[0] if len(uses) == 1 else torch.cat(uses, dim=1)
