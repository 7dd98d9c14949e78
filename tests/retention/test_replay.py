"""Replay against its definition in double precision."""

import torch

from safe_train.retention.mechanism import AnswerStates
from safe_train.retention.replay import Replay


class Head:
    bias = None
    logit_softcap = None

    def __init__(self, weight):
        self.weight = weight

    def __call__(self, hidden):
        return hidden @ self.weight.T


def states(count=5, width=4, vocabulary=7):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(count, width, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(vocabulary, (count,), generator=generator)
    head = Head(torch.randn(vocabulary, width, generator=generator, dtype=torch.float64))
    return head, AnswerStates(hidden, labels, torch.zeros(count, dtype=torch.int64))


def test_value_and_gradient_are_those_of_the_mean_cross_entropy():
    head, student = states()
    Replay(head, weight=0.3).loss(student, None).backward()
    probabilities = (student.hidden.detach() @ head.weight.T).softmax(-1)
    wanted = probabilities.clone()
    wanted[torch.arange(5), student.labels] -= 1.0
    torch.testing.assert_close(student.hidden.grad, 0.3 / 5 * wanted @ head.weight)


def test_it_says_what_it_did():
    head, student = states()
    replay = Replay(head, weight=0.3)
    assert not replay.was_active
    assert replay.metrics() == {}
    value = replay.loss(student, None)
    assert replay.was_active
    assert abs(replay.metrics()["replay_loss"] - value.item() / 0.3) < 1e-12


def test_it_tells_the_mean_over_a_steps_tokens():
    """Of batches of different sizes, and of the new step alone after it has begun."""
    replay = Replay(states()[0], weight=1.0)
    parts = []
    for count in (2, 7):
        head, student = states(count)
        replay.head = head
        parts.append((replay.loss(student, None).item(), count))
    expected = sum(value * count for value, count in parts) / 9
    assert abs(replay.metrics()["replay_loss"] - expected) < 1e-12
    replay.before_step(1, 9)
    assert replay.metrics() == {}
