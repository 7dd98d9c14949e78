"""The subspaces that answers depend on: those of the gradients' and the inputs' own singular vectors."""

import pytest
import torch

from safe_kernels import FrequentDirections
from safe_train.retention import subspace
from safe_train.retention.subspace import activation_subspace, gradient_subspace
from tests.retention.toy import ToyModel, per_row_gradients
from tests.tolerances import SUBSPACE


def row_gradients(model, name):
    """Of twelve retention examples, by a loop over them: [12, d]."""
    return torch.cat([per_row_gradients(model, batch)[name] for batch in model.batches(12)]).flatten(1)


def largest_sine(one, other):
    return torch.linalg.matrix_norm(one.double() - other @ (other.T @ one.double()), ord=2).item()


@pytest.mark.parametrize("rank", [1, 4, 12])
def test_gradient_subspace_is_that_of_the_row_gradients(rank):
    model = ToyModel(dtype=torch.float64)
    bases = gradient_subspace(model, model.linears, model.batches, num_samples=12, rank=rank, energy=None)
    assert list(bases) == list(model.linears)
    for name, basis in bases.items():
        rows = row_gradients(model, name)
        _, values, vectors = torch.linalg.svd(rows, full_matrices=False)
        assert largest_sine(basis.vectors, vectors[:rank].T) < SUBSPACE[torch.float64]
        assert (rows.sum(0) @ basis.vectors >= -1e-9).all()  # oriented by the mean gradient
        assert basis.captured_energy == pytest.approx(((values[:rank] ** 2).sum() / (values**2).sum()).item())


def test_negative_control_a_sketch_finds_another_subspace():
    model = ToyModel(dtype=torch.float64)
    rows = row_gradients(model, "second")
    sketch = FrequentDirections(rows.shape[1], 4, dtype=torch.float64)
    sketch.update(rows)
    best = torch.linalg.svd(rows, full_matrices=False).Vh[:4].T
    assert largest_sine(sketch.basis(rank=4).vectors, best) > 1000 * SUBSPACE[torch.float64]


def recorded_layers(monkeypatch):
    """Names of the layers that each batch of a calibration records."""
    found, own = [], subspace.captured_inputs_and_gradients

    def capture(model, linears, batch, recorded=None):
        found.append(list(recorded))
        return own(model, linears, batch, recorded)

    monkeypatch.setattr(subspace, "captured_inputs_and_gradients", capture)
    return found


@pytest.mark.parametrize("memory", [None, 1])
def test_memory_decides_the_passes_and_not_the_bases(monkeypatch, memory):
    """With too little for two weights, each gets a pass of its own, in which nothing else is recorded."""
    model = ToyModel()
    expected = gradient_subspace(model, model.linears, model.batches, num_samples=12, rank=4, energy=None)
    recorded = recorded_layers(monkeypatch)
    bases = gradient_subspace(model, model.linears, model.batches, num_samples=12, rank=4, energy=None, memory=memory)
    both = ["first", "second"]
    assert recorded == ([both, both] if memory is None else [both, ["first"], ["second"], ["second"]])
    assert list(bases) == list(expected)
    for name, basis in bases.items():
        assert torch.equal(basis.vectors, expected[name].vectors)
        assert basis.captured_energy == expected[name].captured_energy
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_memory_counts_the_samples_that_are_still_to_come(monkeypatch):
    """Captures of one batch of both layers would fit, those of both batches do not."""
    model = ToyModel()
    of_a_row = {"first": 3 * (5 + 7) * 4, "second": 3 * (7 + 7) * 4}
    recorded = recorded_layers(monkeypatch)
    for rows, num_passes in ((12, 1), (11, 2)):
        recorded.clear()
        memory = rows * sum(of_a_row.values())
        gradient_subspace(model, model.linears, model.batches, num_samples=12, rank=4, energy=None, memory=memory)
        assert len(recorded) == 2 * num_passes


@pytest.mark.parametrize("memory", [None, 1])
def test_a_layer_that_only_later_rows_use_gets_its_basis_too(monkeypatch, memory):
    """The second layer's part is left out of the first batch, as of a batch without its modality."""
    model = ToyModel(dtype=torch.float64)
    hidden, without = model.hidden, next(iter(model.batches(12))).inputs

    def partial_hidden(inputs):
        alone = inputs @ model.anchor + model.first(inputs)
        return alone if torch.equal(inputs, without) else hidden(inputs)

    recorded = recorded_layers(monkeypatch)
    model.hidden = partial_hidden
    bases = gradient_subspace(model, model.linears, model.batches, num_samples=12, rank=4, energy=None, memory=memory)
    model.hidden = hidden
    both = ["first", "second"]
    assert recorded == [both, both] + ([["second"], ["second"]] if memory else [])  # it waits for a pass of its own
    assert set(bases) == {"first", "second"}
    rows = per_row_gradients(model, list(model.batches(12))[1])["second"].flatten(1)
    best = torch.linalg.svd(rows, full_matrices=False).Vh[:4].T
    assert largest_sine(bases["second"].vectors, best) < SUBSPACE[torch.float64]


def test_activation_subspace_is_that_of_the_inputs():
    model = ToyModel(dtype=torch.float64)
    basis = activation_subspace(model, model.linears, model.batches(12), rank=2, energy=None)["first"]
    rows = torch.cat([batch.inputs.flatten(0, 1) for batch in model.batches(12)])
    _, values, vectors = torch.linalg.svd(rows)
    overlap = torch.linalg.svdvals(vectors[:2] @ basis.vectors.double())
    assert overlap.min() > 1 - 1e-6
    expected = (values[:2] ** 2).sum() / (values**2).sum()
    assert basis.captured_energy == pytest.approx(expected.item(), rel=1e-5)
