"""Distillation: the value, the gradient, and that nothing but answer tokens enters."""

import pytest
import torch

from safe_train.model.base import OutputHead
from safe_train.retention import Distillation
from tests.retention.toy import VOCABULARY, ToyModel
from tests.tolerances import DIVERGENCE_GRADIENT, DIVERGENCE_VALUE, relative_error

NAMES = ("reverse", "jsd")


def reference(student_logits, teacher_logits, temperature, divergence="forward"):
    teacher = (teacher_logits.double() / temperature).log_softmax(-1)
    student = (student_logits.double() / temperature).log_softmax(-1)
    middle = (0.5 * (teacher.exp() + student.exp())).log()
    tokens = {
        "forward": (teacher.exp() * (teacher - student)).sum(-1),
        "reverse": (student.exp() * (student - teacher)).sum(-1),
        "jsd": 0.5 * (teacher.exp() * (teacher - middle) + student.exp() * (student - middle)).sum(-1),
    }
    return temperature**2 * tokens[divergence].mean()


def far_model():
    """So far from its teacher that the divergences are different numbers."""
    model = ToyModel()
    model.second.weight.data.mul_(8.0)
    return model


def logits(hidden, head):
    """By the definition, in float64."""
    found = hidden.double() @ head.weight.double().T
    if head.bias is not None:
        found = found + head.bias.double()
    return found if head.logit_softcap is None else head.logit_softcap * (found / head.logit_softcap).tanh()


@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("kind", ["plain", "bias", "softcap", "bias and softcap"])
def test_value_and_gradient_are_those_of_the_definition(divergence, temperature, kind):
    model = far_model()
    bias = 2.0 * torch.randn(VOCABULARY) if "bias" in kind else None
    model.head = OutputHead(model.head.weight, bias, 1.5 if "softcap" in kind else None)
    batch = model.batch(0)
    states, teacher = model.student(batch), model.teacher(batch)
    distillation = Distillation(model.head, weight=0.2, divergence=divergence, temperature=temperature)
    loss = distillation.loss(states, teacher)
    value = reference(logits(states.hidden, model.head), logits(teacher, model.head), temperature, divergence)
    assert relative_error(loss, 0.2 * value) < DIVERGENCE_VALUE[torch.float32]
    assert distillation.metrics()["kl"] == pytest.approx(value.item(), rel=DIVERGENCE_VALUE[torch.float32])
    found = torch.autograd.grad(loss, model.parameters(), retain_graph=True)
    for gradient, wanted in zip(found, torch.autograd.grad(0.2 * value, model.parameters()), strict=True):
        assert relative_error(gradient, wanted) < DIVERGENCE_GRADIENT[torch.float32]


@pytest.mark.parametrize("change", ["bias", "softcap", "temperature", "reverse", "jsd"])
def test_what_is_left_out_is_seen(change):
    """Negative control: the definition without one of the options is another number."""
    model = far_model()
    states, teacher = model.student(model.batch(0)), model.teacher(model.batch(0))
    head = OutputHead(model.head.weight, 2.0 * torch.randn(VOCABULARY), 1.5)
    without = OutputHead(
        head.weight, None if change == "bias" else head.bias, None if change == "softcap" else head.logit_softcap
    )
    values = [
        reference(logits(states.hidden, head), logits(teacher, head), 2.0, change if change in NAMES else "forward"),
        reference(logits(states.hidden, without), logits(teacher, without), 1.0 if change == "temperature" else 2.0),
    ]
    assert relative_error(values[0], values[1]) > 10 * DIVERGENCE_VALUE[torch.float32]


def test_without_a_teacher_it_is_refused():
    model = ToyModel()
    with pytest.raises(ValueError, match="teacher_hidden must be given"):
        Distillation(model.head, weight=1.0).loss(model.student(model.batch(0)), None)


def test_its_state_tells_whether_it_has_acted():
    model = ToyModel()
    batch = model.batch(0)
    acted, idle = (Distillation(model.head, weight=1.0) for _ in range(2))
    acted.loss(model.student(batch), model.teacher(batch))
    for distillation, expected in ((acted, True), (idle, False)):
        resumed = Distillation(model.head, weight=1.0)
        resumed.load_state_dict(distillation.state_dict())
        assert resumed.was_active == expected


def test_it_is_zero_exactly_when_the_student_is_the_teacher():
    model = ToyModel()
    model.second.weight.data.zero_()
    batch = model.batch(0)
    distillation = Distillation(model.head, weight=1.0)
    distillation.loss(model.student(batch), model.teacher(batch))
    assert distillation.metrics() == {"kl": 0.0}
    assert not distillation.was_active
    model.second.weight.data.fill_(0.01)
    distillation.loss(model.student(batch), model.teacher(batch))
    assert distillation.metrics()["kl"] > 0.0
    assert distillation.was_active
