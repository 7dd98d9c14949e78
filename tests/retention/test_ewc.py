"""Elastic weight consolidation: Fisher diagonal, penalty and their negative controls."""

import pytest
import torch

from safe_train.model.base import OutputHead
from safe_train.retention import AnswerStates, ElasticWeightConsolidation
from safe_train.retention.ewc import accumulate_fisher
from safe_train.retention.mechanism import draw_labels
from tests.retention.toy import ROWS, TOKENS, ToyModel, per_row_gradients
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
    labels = draw_labels(model.head, states, range(ROWS), 5)
    fishers, _ = accumulate_fisher(model, model.linears, [batch], labels="true", seed=5)
    expected = per_row_gradients(model, batch, labels)
    for name, fisher in fishers.items():
        assert relative_error(fisher, expected[name].square().sum(0)) < FISHER[torch.float32]
    draws = torch.stack([draw_labels(model.head, states, range(ROWS), seed) for seed in range(4000)])
    frequencies = torch.stack([(draws == token).float().mean(0) for token in range(11)], dim=1)
    probabilities = model.head(states.hidden).softmax(-1)
    assert (frequencies - probabilities).abs().max() < 5 * 0.5 / 4000**0.5  # five standard errors at most


def test_tokens_and_rows_are_drawn_independently():
    """Tokens of one distribution: pairs are equal as often as two independent draws from it are."""
    probabilities = torch.tensor([0.1, 0.2, 0.3, 0.4])
    head = OutputHead(probabilities.log()[:, None], None, None)
    rows = torch.arange(1000).repeat_interleave(2)
    states = AnswerStates(torch.ones(2000, 1), torch.zeros(2000, dtype=torch.int64), rows)
    drawn = draw_labels(head, states, range(1000), 0).view(1000, 2)
    expected = probabilities.square().sum()
    tolerance = 5 * (expected * (1 - expected) / 1000).sqrt()
    assert abs((drawn[:, 0] == drawn[:, 1]).float().mean() - expected) < tolerance  # tokens of a row
    assert abs((drawn[:-1, 0] == drawn[1:, 0]).float().mean() - expected) < tolerance  # rows of a batch
    other = draw_labels(head, states, range(1000), 1).view(1000, 2)
    assert abs((drawn[:, 0] == other[:, 0]).float().mean() - expected) < tolerance  # seeds


@pytest.mark.parametrize("size", [1, 4, 12])
def test_labels_do_not_depend_on_the_batches(size):
    """Rows in batches of another size, or shared out over two processes, are given the same labels."""
    model = ToyModel()
    whole = model.student(model.batch(0, rows=12))
    expected = draw_labels(model.head, whole, range(12), 7).view(12, TOKENS)
    hidden, given = whole.hidden.view(12, TOKENS, -1), whole.labels.view(12, TOKENS)
    for start in range(0, 12, size):
        for share in (range(start, start + size), range(start, start + size, 2)):
            rows = torch.arange(len(share)).repeat_interleave(TOKENS)
            states = AnswerStates(hidden[list(share)].flatten(0, 1), given[list(share)].flatten(), rows)
            found = draw_labels(model.head, states, share, 7).view(-1, TOKENS)
            assert torch.equal(found, expected[list(share)])


def test_a_token_that_cannot_come_is_never_drawn():
    """Predictions of zero before, between and behind the others."""
    head = OutputHead(torch.tensor([[-1e4], [0.0], [-1e4], [0.0], [-1e4]]), None, None)
    rows = torch.arange(500)
    states = AnswerStates(torch.ones(500, 1), torch.zeros(500, dtype=torch.int64), rows)
    assert draw_labels(head, states, range(500), 0).unique().tolist() == [1, 3]


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
    assert ewc.metrics()["ewc"] == 0.0
    assert torch.count_nonzero(model.first.weight.grad) == 0

    moved = torch.randn(start.shape, generator=torch.Generator().manual_seed(1))
    model.first.weight.data.add_(moved)
    model.first.weight.grad = None
    ewc.after_retention_backward()
    expected = 0.3 * ewc.fishers["first"] * (model.first.weight.detach() - start)
    assert relative_error(model.first.weight.grad, expected) < EWC_GRADIENT[torch.float32]
    value = 0.5 * 0.3 * (ewc.fishers["first"].double() * (model.first.weight.detach() - start).double() ** 2).sum()
    assert ewc.metrics()["ewc"] == pytest.approx(value.item(), rel=1e-5)


@pytest.mark.parametrize("again", [False, True])
def test_the_pull_is_towards_the_weights_at_construction_whenever_it_is_calibrated(again):
    """What was learned before the Fisher diagonal is there is not where the weights are to stay."""
    model = ToyModel()
    ewc = mechanism(model)
    starts = {name: module.weight.detach().clone() for name, module in model.linears.items()}
    for number, module in enumerate(model.linears.values()):
        module.weight.data.add_(torch.randn(module.weight.shape, generator=torch.Generator().manual_seed(number)))
    ewc.before_step(2, 0)
    if again:
        ewc.calibrate()
    ewc.after_retention_backward()
    for name, module in model.linears.items():
        expected = 0.3 * ewc.fishers[name].double() * (module.weight.detach() - starts[name]).double()
        assert expected.norm() > 0  # from anchors that have come along there would be no pull
        assert relative_error(module.weight.grad, expected) < EWC_GRADIENT[torch.float32]


def test_before_calibration_there_is_no_penalty_and_it_counts_as_inactive():
    model = ToyModel()
    ewc = mechanism(model)
    ewc.after_retention_backward()
    assert model.first.weight.grad is None
    assert not ewc.was_active
    assert ewc.metrics() == {}


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
