"""Elastic weight consolidation: Fisher diagonal, penalty and their negative controls."""

import pytest
import torch

from safe_train.retention import ElasticWeightConsolidation
from safe_train.retention.elastic import accumulate_fisher
from safe_train.retention.mechanism import draw_labels
from tests.retention.toy import ROWS, ToyModel, per_row_gradients
from tests.tolerances import EWC_GRADIENT, FISHER, relative_error


def mechanism(model, **changes):
    settings = {"weight": 0.3, "calibrate_at": 2, "num_samples": 12, "trace": 50.0, "labels": "empirical"}
    return ElasticWeightConsolidation(model, model.linears, model.batches, **(settings | changes))


def test_empirical_fisher_is_the_mean_of_squared_row_gradients():
    model = ToyModel(dtype=torch.float64)
    fishers, count = accumulate_fisher(model, model.linears, model.batches(12), labels="empirical", seed=0)
    gradients = [per_row_gradients(model, batch) for batch in model.batches(12)]
    assert count == 2 * ROWS
    for name, fisher in fishers.items():
        expected = torch.cat([found[name] for found in gradients]).square().sum(0)
        assert relative_error(fisher, expected) < FISHER[torch.float32]
        batch_squared = torch.cat([found[name] for found in gradients]).sum(0).square()
        assert relative_error(batch_squared, expected) > 0.1  # the wrong method would be caught


def test_true_fisher_draws_its_labels_from_the_model():
    model = ToyModel()
    batch = model.batch(0)
    states = model.student(batch)
    labels = draw_labels(model.head, states, torch.Generator().manual_seed(5))
    fishers, _ = accumulate_fisher(model, model.linears, [batch], labels="true", seed=5)
    expected = per_row_gradients(model, batch, labels)
    for name, fisher in fishers.items():
        assert relative_error(fisher, expected[name].square().sum(0)) < FISHER[torch.float32]
    draws = torch.stack([draw_labels(model.head, states, torch.Generator().manual_seed(seed)) for seed in range(4000)])
    frequencies = torch.stack([(draws == token).float().mean(0) for token in range(11)], dim=1)
    probabilities = model.head(states.hidden).softmax(-1)
    assert (frequencies - probabilities).abs().max() < 5 * 0.5 / 4000**0.5  # five standard errors at most


def test_it_waits_for_its_step_and_scales_the_trace():
    model = ToyModel()
    ewc = mechanism(model)
    ewc.before_step(1, 0)
    assert not ewc.fishers
    ewc.before_step(2, 0)
    assert sum(fisher.sum() for fisher in ewc.fishers.values()) == pytest.approx(50.0, rel=1e-5)
    first = {name: fisher.clone() for name, fisher in ewc.fishers.items()}
    model.first.weight.data.add_(1.0)
    ewc.before_step(3, 0)
    assert all(torch.equal(first[name], ewc.fishers[name]) for name in first)


def test_penalty_pulls_towards_the_initial_weights():
    model = ToyModel()
    ewc = mechanism(model)
    start = model.first.weight.detach().clone()
    ewc.calibrate()
    ewc.after_retention_backward()
    assert ewc.observations()["ewc"] == 0.0
    assert torch.count_nonzero(model.first.weight.grad) == 0

    moved = torch.randn(start.shape, generator=torch.Generator().manual_seed(1))
    model.first.weight.data.add_(moved)
    model.first.weight.grad = None
    ewc.after_retention_backward()
    expected = 0.3 * ewc.fishers["first"] * (model.first.weight.detach() - start)
    assert relative_error(model.first.weight.grad, expected) < EWC_GRADIENT[torch.float32]
    value = 0.5 * 0.3 * (ewc.fishers["first"].double() * (model.first.weight.detach() - start).double() ** 2).sum()
    assert ewc.observations()["ewc"] == pytest.approx(value.item(), rel=1e-5)


def test_before_calibration_there_is_no_penalty_and_it_counts_as_inactive():
    model = ToyModel()
    ewc = mechanism(model)
    ewc.after_retention_backward()
    assert model.first.weight.grad is None
    assert not ewc.was_active
    assert ewc.observations() == {}


def test_a_zero_fisher_is_an_error_and_never_a_uniform_penalty():
    model = ToyModel()
    model.second.weight.data.zero_()
    ewc = ElasticWeightConsolidation(model, {"first": model.first}, model.batches, weight=1.0, calibrate_at=0)
    with pytest.raises(ValueError, match="positive finite trace"):
        ewc.calibrate()


def test_state_goes_through_unchanged():
    model = ToyModel()
    ewc = mechanism(model)
    ewc.calibrate()
    other = mechanism(ToyModel(seed=1))
    other.load_state_dict(ewc.state_dict())
    assert other.raw_trace == ewc.raw_trace
    assert all(torch.equal(other.fishers[name], ewc.fishers[name]) for name in ewc.fishers)
    assert all(torch.equal(other.anchors[name], ewc.anchors[name]) for name in ewc.anchors)
