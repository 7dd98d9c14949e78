"""The teacher's passes are computed once for all conditions, and every figure is the same to the last bit."""

from dataclasses import replace

import pytest
import torch

from safe_train.data.datasets.audiocaps import AudioCaps
from safe_train.data.datasets.vqa import VQA
from safe_train.data.example import DOCUMENT, Example
from safe_train.distributed.processes import Processes
from safe_train.evaluation import evaluator as module
from safe_train.evaluation.base_answers import base_answers
from safe_train.evaluation.evaluator import Evaluator
from safe_train.evaluation.settings import EvaluationSettings
from safe_train.evaluation.teacher_passes import KeptTeacher
from safe_train.model.retention_model import SafeRetentionModel
from safe_train.training.build import build_collator

SETTINGS = EvaluationSettings(batch_size=7)
DOCUMENTS = [
    Example(f"d{number}", "", (text,), kind=DOCUMENT)
    for number, text in enumerate(("a red ball is here", "two dogs", "the sun"))
]
CONDITIONS = ("silence", "distractor", "noise")


@pytest.fixture
def make_evaluator(make_safe_model, embedded_base, small_data, monkeypatch):
    vl = VQA().examples(small_data, "val")[:10]
    audio = AudioCaps().examples(small_data, "val", default_question="what do you hear?")[:4]

    def make(teacher):
        monkeypatch.setattr(module, "KeptTeacher", teacher)
        model = make_safe_model(output_scale=2.0)
        base = base_answers(embedded_base, vl, SETTINGS, text=DOCUMENTS)
        return Evaluator(model, build_collator(model), vl, audio, base, SETTINGS, seed=0, text_rows=DOCUMENTS)

    return make


def count_passes(model, monkeypatch):
    calls, own = [], model.bypass_and_prefix
    monkeypatch.setattr(model, "bypass_and_prefix", lambda inputs: calls.append(1) or own(inputs))
    return calls


@pytest.mark.parametrize(("max_bytes", "passes"), [(2**30, 3), (0, 9), (80_000, None)], ids=["all", "none", "some"])
def test_each_batch_is_passed_once_and_the_figures_are_the_same(max_bytes, passes, make_evaluator, monkeypatch):
    evaluators = [make_evaluator(SafeRetentionModel), make_evaluator(lambda model: KeptTeacher(model, max_bytes))]
    calls = count_passes(evaluators[1].model, monkeypatch)
    for name in CONDITIONS:
        plain, kept = (evaluator.vl_predictions(name) for evaluator in evaluators)
        assert plain == kept
        assert any(prediction.kl > 0 for prediction in kept)
        plain, kept = (evaluator.text_predictions(name) for evaluator in evaluators)
        assert plain == kept
    if passes is None:
        assert 3 < len(calls) < 9
    else:
        assert len(calls) == passes  # of two batches of questions and one of documents


def test_a_pass_that_writes_into_what_it_is_given_spoils_nothing(make_evaluator):
    teacher = KeptTeacher(make_evaluator(SafeRetentionModel).model)
    evaluator = make_evaluator(lambda _model: teacher)
    batch = replace(evaluator.encoder.training_batch(evaluator.vl_rows[:2]), features=None)
    first = teacher.teacher(batch).clone()
    teacher.teacher(batch).zero_()
    shared = teacher._shared
    assert shared is not None
    assert shared[1] is not None
    shared[1].output.zero_() if isinstance(shared[1].output, torch.Tensor) else shared[1].output[0].zero_()
    assert torch.equal(teacher.teacher(batch), first)
    assert torch.equal(teacher.student(batch).hidden, first)  # without audio the student is the teacher


def test_other_examples_are_another_batch(make_evaluator):
    evaluator = make_evaluator(KeptTeacher)
    teacher = evaluator._retention_model
    batches = [evaluator.encoder.training_batch(evaluator.vl_rows[start : start + 2]) for start in (0, 2)]
    assert not torch.equal(teacher.teacher(batches[0]), teacher.teacher(batches[1]))
    nameless = replace(batches[0], rows=())
    assert torch.equal(teacher.teacher(nameless), teacher.teacher(batches[0]))
    assert len(teacher._kept) == 2


def test_processes_in_a_collective_forward_keep_nothing(make_evaluator):
    evaluator = make_evaluator(KeptTeacher)
    sharded = Processes()
    sharded.collective_forward = True
    found = Evaluator(
        evaluator.model,
        evaluator.encoder,
        evaluator.vl_rows,
        evaluator.audio_rows,
        evaluator.base,
        SETTINGS,
        0,
        sharded,
    )
    assert type(found._retention_model) is SafeRetentionModel
