"""The subspaces that protected answers depend on, estimated from protected rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from safe_kernels import Basis, FrequentDirections, covariance_basis
from safe_train.parallel import ALONE, Processes
from safe_train.retention.capture import LinearCapture, per_sample_gradients
from safe_train.retention.mechanism import ProtectedModel, negative_log_likelihood


def gradient_subspace(
    model: ProtectedModel,
    linears: Mapping[str, nn.Linear],
    batches: Iterable[Any],
    *,
    rank: int,
    energy: float | None,
    processes: Processes = ALONE,
) -> dict[str, Basis]:
    """For each weight, the principal subspace of its per-sample gradients, flat: vectors [d_out * d_in, r].

    Sample n's gradient is that of the sum of its answer tokens' negative log-likelihoods. The gradients stream through
    a Frequent Directions sketch, so memory does not grow with the number of samples. Every vector is oriented by the
    mean gradient: an update with a positive coefficient along it raises the loss. Of several processes, each gets the
    gradients of all their rows, batch by batch in the batch's order, and so the same sketch and the same bases.
    Source: Farajtabar et al. 2020 (orthogonal gradient descent), arXiv:1910.07104.
    """
    sketches: dict[str, FrequentDirections] = {}
    sums: dict[str, Tensor] = {}
    for batch in batches:
        total = processes.sum(int(batch.num_rows))
        for name, (inputs, grad_outputs) in _captured(model, linears, batch).items():
            gradients = processes.gather_rows(per_sample_gradients(inputs, grad_outputs), total)
            if name not in sketches:
                size = gradients.shape[1]
                sketches[name] = FrequentDirections(size, min(2 * rank, size), device=gradients.device)
                sums[name] = torch.zeros_like(gradients[0])
            sketches[name].update(gradients)
            sums[name] += gradients.sum(dim=0)
    return {
        name: sketch.basis(rank=min(rank, sketch.rank), energy=energy).oriented(sums[name])
        for name, sketch in sketches.items()
    }


def activation_subspace(
    model: ProtectedModel,
    linears: Mapping[str, nn.Linear],
    batches: Iterable[Any],
    *,
    rank: int,
    energy: float | None,
    processes: Processes = ALONE,
) -> dict[str, Basis]:
    """For each weight, the principal subspace of its layer's inputs: vectors [d_in, r].

    An update whose rows are orthogonal to it leaves the layer's outputs on those inputs as they were. The inputs'
    second moments are summed over all processes; inputs at padding count as they do in one process.
    Source: Saha et al. 2021 (gradient projection memory), arXiv:2103.09762.
    """
    moments: dict[str, Tensor] = {}
    for batch in batches:
        for name, (inputs, _) in _captured(model, linears, batch).items():
            flat = inputs.flatten(0, 1).double()
            moments[name] = moments.get(name, 0) + flat.T @ flat
    processes.sum_(moments.values())
    return {
        name: covariance_basis(moment.float(), rank=min(rank, moment.shape[0]), energy=energy)
        for name, moment in moments.items()
    }


def _captured(model: ProtectedModel, linears: Mapping[str, nn.Linear], batch: Any) -> dict[str, tuple[Tensor, Tensor]]:
    with LinearCapture(linears) as capture:
        negative_log_likelihood(model.head, model.student(batch)).backward()
        return capture.take()
