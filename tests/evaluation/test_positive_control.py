"""The positive control on the embedded model: every condition but the bypass fails."""

import torch

from safe_train.data.datasets.audiocaps import AudioCaps
from safe_train.data.datasets.vqa import VQA
from safe_train.evaluation.base_answers import base_answers
from safe_train.evaluation.conditions import select
from safe_train.evaluation.evaluator import Evaluator
from safe_train.evaluation.positive_control import damage_fusions
from safe_train.evaluation.settings import EvaluationSettings
from safe_train.model.safe_model import FusionStatistics
from safe_train.training.build import build_collator


def test_damaged_fusions_have_the_wanted_size_and_fail_every_condition(small_data, embedded_base, make_safe_model):
    vl = VQA().examples(small_data, "val")
    audio = AudioCaps().examples(small_data, "val", default_question="what do you hear?")
    settings = EvaluationSettings(batch_size=20, audio_metric="exact_match")  # noise shares words with captions
    reference = base_answers(embedded_base, vl, settings)
    model = make_safe_model(output_scale=0.0)
    evaluator = Evaluator(model, build_collator(model), vl, audio, reference, settings, seed=0)
    conditions = select(["silence", "distractor", "contradictory", "loud", "noise", "worst_of_4"])
    untouched = evaluator.run(conditions=conditions)
    damage_fusions(model, evaluator.encoder, vl, ratio=2.0)

    statistics = model.statistics = FusionStatistics()
    with torch.no_grad():
        model.last_hidden_state(
            evaluator.encoder.training_batch(vl[:16]).inputs, evaluator.encoder.features_of(vl[:16])
        )
    model.statistics = None
    first_layer = [updates[0] for updates in statistics.updates()]
    assert abs(sum(first_layer) / 16 - 2.0) < 0.02  # the layers behind see hidden states that are changed already

    damaged = evaluator.run(conditions=conditions)
    assert damaged.vl["bypass"].bit_equal
    assert damaged.passed_although_damaged() == []
    # Negative control: SAFE before training changes nothing, and the same check says so.
    assert len(untouched.passed_although_damaged()) == len(conditions.vl) - 1
