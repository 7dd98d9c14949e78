"""Distillation: the value, the gradient, and that nothing but answer tokens enters."""

import pytest
import torch

from safe_train.retention import Distillation
from tests.retention.toy import ToyModel
from tests.tolerances import DIVERGENCE_GRADIENT, DIVERGENCE_VALUE, relative_error


def reference(student_logits, teacher_logits, temperature):
    teacher = (teacher_logits.double() / temperature).log_softmax(-1)
    student = (student_logits.double() / temperature).log_softmax(-1)
    return temperature**2 * (teacher.exp() * (teacher - student)).sum(-1).mean()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_value_and_gradient_are_those_of_the_definition(temperature):
    model = ToyModel()
    batch = model.batch(0)
    states, teacher = model.student(batch), model.teacher(batch)
    loss = Distillation(model.head, weight=0.2, temperature=temperature).loss(states, teacher)
    expected = 0.2 * reference(model.head(states.hidden), model.head(teacher), temperature)
    assert relative_error(loss, expected) < DIVERGENCE_VALUE[torch.float32]
    found = torch.autograd.grad(loss, model.parameters(), retain_graph=True)
    for gradient, wanted in zip(found, torch.autograd.grad(expected, model.parameters()), strict=True):
        assert relative_error(gradient, wanted) < DIVERGENCE_GRADIENT[torch.float32]


def test_it_is_zero_exactly_when_the_student_is_the_teacher():
    model = ToyModel()
    model.second.weight.data.zero_()
    batch = model.batch(0)
    distillation = Distillation(model.head, weight=1.0)
    distillation.loss(model.student(batch), model.teacher(batch))
    assert distillation.observations() == {"kl": 0.0}
    assert not distillation.was_active
    model.second.weight.data.fill_(0.01)
    distillation.loss(model.student(batch), model.teacher(batch))
    assert distillation.observations()["kl"] > 0.0
    assert distillation.was_active
