"""The subspaces that the retention answers depend on, estimated from retention examples."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from safe_kernels import Basis, LinearGradientGram, covariance_basis
from safe_train.retention.capture import LinearCapture
from safe_train.retention.collectives import SINGLE_PROCESS, Collectives
from safe_train.retention.mechanism import CalibrationBatches, RetentionModel, negative_log_likelihood

_LEAST_MEMORY = 2**30
"""Bytes of captures below which no further pass over the retention examples is worth its time."""


def gradient_subspace(
    model: RetentionModel,
    linears: Mapping[str, nn.Linear],
    batches: CalibrationBatches,
    *,
    num_samples: int,
    rank: int,
    energy: float | None,
    memory: int | None = None,
    collectives: Collectives = SINGLE_PROCESS,
) -> dict[str, Basis]:
    """For each weight, the principal subspace of its per-sample gradients, flat: vectors [d_out * d_in, r].

    Sample n's gradient is that of the sum of its answer tokens' negative log-likelihoods. The bases are exact: of each
    layer, inputs and output gradients are kept, which determine all gradients and take less memory than they
    (`safe_kernels.LinearGradientGram`). Every vector is oriented by the mean gradient: an update with a positive
    coefficient along it raises the loss. Of several processes, each gets the captures of all examples, batch by batch
    in the batch's order, and so the same bases.
    Source: Farajtabar et al. 2020 (orthogonal gradient descent), arXiv:1910.07104.

    Args:
        model: the student.
        linears: layers by the names of their weights.
        batches: returns the same retention examples each time it is called.
        num_samples: number of examples requested from it.
        rank: at most so many vectors a weight.
        energy: as few vectors as capture this share; None for as many as ``rank`` allows.
        memory: approximate limit of the captures in bytes; weights whose captures do not fit need another pass over
            the examples. Each pass has at least one weight. None for twice the size of the bases, at least 1 GiB.
        collectives: of the processes that share the examples.

    Returns:
        A basis for each weight that was used; whatever the memory, the same.
    """
    if memory is None:
        memory = captured_memory(sum(module.weight.numel() for module in linears.values()), rank)
    waiting, bases = dict(linears), dict[str, Basis]()
    while waiting:
        grams, later = _one_pass(model, linears, batches, list(waiting), num_samples, memory, collectives)
        for name in list(grams):
            gram = grams.pop(name)  # so that its captures go before the next basis comes
            size = gram.in_features * gram.out_features
            bases[name] = gram.basis(rank=min(rank, size), energy=energy, oriented=True)
        waiting = {name: waiting[name] for name in later}
    return {name: bases[name] for name in linears if name in bases}


def captured_memory(num_weights: int, rank: int) -> int:
    """Default limit of the captures in bytes: twice the size of bases of the rank, at least 1 GiB."""
    return max(2 * 4 * rank * num_weights, _LEAST_MEMORY)


def _one_pass(
    model: RetentionModel,
    linears: Mapping[str, nn.Linear],
    batches: CalibrationBatches,
    names: list[str],
    num_samples: int,
    memory: int,
    collectives: Collectives,
) -> tuple[dict[str, LinearGradientGram], list[str]]:
    """Captures of those of the named layers that fit into the memory, and the names of the others."""
    grams: dict[str, LinearGradientGram] = {}
    sizes: dict[str, int] = {}
    later: list[str] = []
    for batch in batches(num_samples):
        total = collectives.sum(int(batch.num_rows))
        captured = captured_inputs_and_gradients(model, linears, batch, names)
        for name in list(captured):
            inputs, grad_outputs = (collectives.gather_rows(part, total) for part in captured.pop(name))
            if name not in grams:
                grams[name] = LinearGradientGram(inputs.shape[2], grad_outputs.shape[2])
            grams[name].update(inputs, grad_outputs)
        # What a layer takes is known from its first use, which for a vision tower is the first batch with an image.
        if appeared := {n: -(-num_samples // total) * gram.nbytes for n, gram in grams.items() if n not in sizes}:
            sizes |= appeared
            beyond = _beyond(sizes, memory)
            for name in beyond:
                del grams[name], sizes[name]
            later += beyond
            names = [name for name in names if name not in beyond]
    return grams, later


def _beyond(sizes: Mapping[str, int], memory: int) -> list[str]:
    """Of items of these sizes, those that the memory has no room for; the first of all always finds some."""
    later, taken = [], 0
    for number, (name, size) in enumerate(sizes.items()):
        if number and taken + size > memory:
            later.append(name)
        else:
            taken += size
    return later


def activation_subspace(
    model: RetentionModel,
    linears: Mapping[str, nn.Linear],
    batches: Iterable[Any],
    *,
    rank: int,
    energy: float | None,
    collectives: Collectives = SINGLE_PROCESS,
) -> dict[str, Basis]:
    """For each weight, the principal subspace of its layer's inputs: vectors [d_in, r].

    An update whose rows are orthogonal to it leaves the layer's outputs on those inputs as they were. The inputs'
    second moments are summed over all processes; inputs at padding count as they do in one process.
    Source: Saha et al. 2021 (gradient projection memory), arXiv:2103.09762.
    """
    moments: dict[str, Tensor] = {}
    for batch in batches:
        for name, (inputs, _) in captured_inputs_and_gradients(model, linears, batch).items():
            flat = inputs.flatten(0, 1).double()
            moments[name] = moments.get(name, 0) + flat.T @ flat
    collectives.sum_(moments.values())
    return {
        name: covariance_basis(moment.float(), rank=min(rank, moment.shape[0]), energy=energy)
        for name, moment in moments.items()
    }


def captured_inputs_and_gradients(
    model: RetentionModel, linears: Mapping[str, nn.Linear], batch: Any, recorded: Collection[str] | None = None
) -> dict[str, tuple[Tensor, Tensor]]:
    """Inputs [N, T, d_in] and output gradients [N, T, d_out] of the layers for a batch's examples.

    Args:
        model: the student.
        linears: layers by the names of their weights, whose own gradients are left alone.
        batch: this process's share of retention examples.
        recorded: names of the layers that are wanted; None for all.
    """
    with LinearCapture(linears, recorded, num_samples=int(batch.num_rows)) as capture:
        capture.backward(negative_log_likelihood(model.head, model.student(batch)))
        return capture.take()
