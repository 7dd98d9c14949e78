"""The task loss's part of AdamW's steps, which are linear in the first moment and so split exactly."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MULTI: Any = torch
"""PyTorch's multi-tensor operations, public in use and private in name: a call for all tensors."""

_INTERMEDIATE_ELEMENTS = 2**24
"""Elements of an intermediate result at a time: 64 MiB of float32."""


def splits_by_task(optimizer: torch.optim.Optimizer) -> bool:
    """Whether :class:`TaskUpdate` knows the optimizer's steps: those of AdamW without amsgrad or maximize."""
    return isinstance(optimizer, torch.optim.AdamW) and not any(
        group["amsgrad"] or group["maximize"] for group in optimizer.param_groups
    )


@dataclass(frozen=True)
class _Chunk:
    """Parameters that share the optimizer's settings and their number of steps.

    Attributes:
        group: the optimizer's settings.
        count: steps taken so far, a number or a scalar on their device.
        indices: which parameters.
    """

    group: dict[str, Any]
    count: float | Tensor
    indices: list[int]


class TaskUpdate:
    """The part of AdamW's steps that comes from the task loss, for the parameters that it trains.

    With the first moment ``m_a`` of only the task loss's gradient, kept here, and AdamW's own second moment v, the
    task loss's part of step t, weight decay included, is

        -lr m_a / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) - lr decay theta

    A step holds one copy of the parameters in addition to ``moments``: the task gradient, then the weights before the
    step, then the part, each overwriting the one before. There is no device synchronization, and the number of
    operations does not grow with the number of tensors.

    Attributes:
        moments: first moments of the task loss's gradients, one for each parameter; empty before the first step.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> None:
        self.optimizer, self.parameters = optimizer, list(parameters)
        self.moments: list[Tensor] = []
        self._held: list[Tensor] = []
        self._steps: list[Tensor] = []
        self._counts: list[float] = []

    @torch.no_grad()
    def take_gradients(self, gradients: Sequence[Tensor]) -> None:
        """Copies the gradients, which are those of the task loss only."""
        self._held = list(MULTI._foreach_mul(gradients, 1.0))  # a copy, in one operation

    @torch.no_grad()
    def before_optimizer_step(self, clip_coefficient: float, *, wants_part: bool) -> None:
        """Brings the moments up to date, after clipping by this factor; notes the weights if the part is wanted."""
        if not self.moments:
            self.moments = [torch.zeros_like(parameter) for parameter in self.parameters]
        MULTI._foreach_mul_(self._held, clip_coefficient)
        for group, indices in self._by_group().values():
            moments, gradients = ([tensors[i] for i in indices] for tensors in (self.moments, self._held))
            MULTI._foreach_lerp_(moments, gradients, 1 - group["betas"][0])
        if wants_part:
            MULTI._foreach_copy_(self._held, self.parameters)
        else:
            self._held = []

    @torch.no_grad()
    def take_part(self) -> list[Tensor]:
        """The part of the step that the optimizer has just taken, one tensor for each parameter; given away."""
        for chunk in self._chunks():
            group, (beta1, beta2) = chunk.group, chunk.group["betas"]
            part, moments = ([tensors[i] for i in chunk.indices] for tensors in (self._held, self.moments))
            second = [self.optimizer.state[self.parameters[i]]["exp_avg_sq"] for i in chunk.indices]
            bias1, bias2 = 1 - beta1**chunk.count, 1 - beta2**chunk.count
            scale = MULTI._foreach_sqrt(second)
            MULTI._foreach_div_(scale, math.sqrt(bias2) if isinstance(bias2, float) else bias2.sqrt())
            MULTI._foreach_add_(scale, group["eps"])
            # As -lr / bias1 (bias1 decay theta + m / scale), which also takes a learning rate that is a tensor.
            MULTI._foreach_mul_(part, bias1 * group["weight_decay"])
            MULTI._foreach_addcdiv_(part, moments, scale)
            del scale  # or it would be there beside the next
            MULTI._foreach_mul_(part, -group["lr"] / bias1)
        held, self._held = self._held, []
        return held

    def _by_group(self) -> dict[int, tuple[dict[str, Any], list[int]]]:
        """The optimizer's groups with the parameters in them; loading a state exchanges the groups."""
        numbers = {id(p): number for number, group in enumerate(self.optimizer.param_groups) for p in group["params"]}
        found: dict[int, tuple[dict[str, Any], list[int]]] = {}
        for index, parameter in enumerate(self.parameters):
            number = numbers[id(parameter)]
            found.setdefault(number, (self.optimizer.param_groups[number], []))[1].append(index)
        return found

    def _chunks(self) -> Iterator[_Chunk]:
        steps = [self.optimizer.state[parameter]["step"] for parameter in self.parameters]
        counts = self._step_counts(steps)
        for group, indices in self._by_group().values():
            apart: dict[float, list[int]] = {}
            for index in indices:
                apart.setdefault(counts[index], []).append(index)
            for same in apart.values():
                for few in self._few(same):
                    first = few[0]
                    yield _Chunk(group, counts[first] if _on_host(steps[first]) else steps[first], few)

    def _few(self, indices: Sequence[int]) -> Iterator[list[int]]:
        """Parameters in order, at least one at a time, as many as an intermediate result may have elements."""
        few: list[int] = []
        size = 0
        for index in indices:
            elements = self.parameters[index].numel()
            if few and size + elements > _INTERMEDIATE_ELEMENTS:
                yield few
                few, size = [], 0
            few.append(index)
            size += elements
        if few:
            yield few

    def _step_counts(self, steps: list[Tensor]) -> list[float]:
        """Steps that each parameter has taken; from a GPU, where a fused optimizer counts, as of the first look.

        Every parameter here takes part in every step, so that those which had taken equally many still have.
        """
        looked_at = len(steps) == len(self._steps) and all(a is b for a, b in zip(steps, self._steps, strict=True))
        if not looked_at or all(map(_on_host, steps)):
            self._steps, self._counts = steps, torch.stack(steps).tolist()
        return self._counts


def _on_host(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"
