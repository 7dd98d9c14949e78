"""Many batches of a calibration that keeps what it captures, without running each of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from safe_train.estimate.trace import Cost, MetaTrace
from safe_train.model.batch import Batch
from safe_train.retention import subspace
from safe_train.retention.mechanism import CalibrationBatches

_Captured = dict[str, tuple[Tensor, Tensor]]


@contextmanager
def repeated_captures(batch: Batch, times: int, trace: MetaTrace) -> Iterator[CalibrationBatches]:
    """Gives, for the block, the same meta batch so many times; the first and the last of them are run.

    The others bring tensors of the same shapes, which count as much memory, and cost what the one before them did. What
    is largest of all comes with the last one, when the captures of all others are kept.
    """
    between = replace(batch)
    own, cost = subspace.captured_inputs_and_gradients, Cost()
    shapes: dict[str, list[tuple[torch.Size, torch.dtype]]] = {}

    def batches(_num_samples: int) -> Iterator[Batch]:
        for number in range(times):
            yield batch if number in (0, times - 1) else between

    def captured(model: Any, linears: Any, given: Batch, recorded: Any = None) -> _Captured:
        nonlocal cost
        before, trace.cost = trace.cost, Cost()
        if given is between:
            found = _of_shapes({name: shapes[name] for name in recorded if name in shapes})
        else:
            found = own(model, linears, given, recorded)
            shapes.update({name: [(part.shape, part.dtype) for part in pair] for name, pair in found.items()})
            cost = trace.cost
        trace.cost = before + cost
        return found

    subspace.captured_inputs_and_gradients = captured
    try:
        yield batches
    finally:
        subspace.captured_inputs_and_gradients = own


def _of_shapes(shapes: dict[str, list[tuple[torch.Size, torch.dtype]]]) -> _Captured:
    empty = {name: [torch.empty(s, dtype=d, device="meta") for s, d in parts] for name, parts in shapes.items()}
    return {name: (inputs, grad_outputs) for name, (inputs, grad_outputs) in empty.items()}
