"""Text-only examples among the protected ones: what they change in a step, in calibrations, and in what is retained."""

from dataclasses import replace

import pytest
import torch

from safe_train.data.example import Example
from safe_train.model.retention_model import SafeRetentionModel
from safe_train.retention import Distillation
from tests.tolerances import LOGITS, relative_error


def gradient_of(stage) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in stage.model.trainable_parameters().values()])


def protected(stage) -> list[Example]:
    return stage.batches.sampler.retention_batch(0, stage.config.optimization.vl_batch_size)


def opened(stage):
    """The stage with fusions that do something: at initialization they are zero, and so is every divergence."""
    generator = torch.Generator().manual_seed(0)
    for fusion in stage.model.fusions:
        torch.nn.init.normal_(fusion.output.weight, std=0.3, generator=generator)
    return stage


def test_a_step_protects_questions_about_images_questions_and_documents(text_folder, configure, prepare):
    stage = prepare(configure(data__root=text_folder, data__text_ratio=0.5, optimization__vl_batch_size=16))
    rows = protected(stage)
    assert [row.image is None for row in rows] == [False] * 8 + [True] * 8
    assert {row.is_document for row in rows[8:]} == {True, False}
    (batch,) = stage.batches.at(0).retention
    assert set(batch.token_rows.tolist()) == set(range(16))
    assert all(features.values.shape[0] == 16 for features in batch.features)
    assert stage.train_step()["kl"] >= 0.0


def test_protected_rows_with_and_without_an_image_apart_are_less_padding_and_the_same_gradient(
    text_folder, configure, prepare
):
    found = []
    for flag in (False, True):
        stage = opened(
            prepare(
                configure(
                    variant="soft_retention", data__root=text_folder, data__length_buckets=flag, data__text_ratio=0.5,
                    optimization__vl_batch_size=16,
                )
            )
        )  # fmt: skip
        batches = stage.batches.at(0).retention
        stage.retention.before_step(0, 0)
        losses = stage.compute_gradient([], batches)
        found.append((batches, losses["retention_loss"], gradient_of(stage), stage.retention.metrics()["kl"]))
    (whole, loss, gradient, kl), (apart, loss_apart, gradient_apart, kl_apart) = found
    assert [len(batches) for batches in (whole, apart)] == [1, 2]
    assert [{row.image is None for row in batch.rows} for batch in apart] == [{True}, {False}]
    positions = [sum(batch.inputs["input_ids"].numel() for batch in batches) for batches in (whole, apart)]
    assert positions[1] < positions[0]
    assert loss_apart == pytest.approx(loss, rel=1e-5)
    assert kl_apart == pytest.approx(kl, rel=1e-5)  # of the step's tokens, not of the last group's
    assert relative_error(gradient_apart, gradient) < 1e-4


def test_the_retention_loss_is_a_mean_over_the_steps_tokens_not_over_each_batchs(text_folder, configure, prepare):
    """By the definition: the sum of every token's divergence over the number of tokens of both batches."""
    stage = opened(prepare(configure(variant="soft_retention", data__root=text_folder, data__text_ratio=0.5)))
    batches = [stage.batches.at(number).retention[0] for number in (0, 1)]
    sizes = [len(batch.labels) for batch in batches]
    assert sizes[0] != sizes[1]
    model = SafeRetentionModel(stage.model)
    sums = [summed_divergence(model, batch) for batch in batches]
    weight = stage.effective["kl_coefficient"]
    losses = stage.compute_gradient([], batches)
    expected = weight * sum(sums) / sum(sizes)
    assert losses["retention_loss"] == pytest.approx(expected, rel=1e-4)
    means = weight * sum(total / size for total, size in zip(sums, sizes, strict=True))
    assert abs(means - expected) > 0.01 * expected  # negative control: a sum of the batches' means


@torch.no_grad()
def summed_divergence(model: SafeRetentionModel, batch) -> float:
    """Sum over the answer tokens of KL(teacher || student), from the logits, in float64."""
    student, teacher = model.student(batch).hidden, model.teacher(batch)
    logs = [model.head(hidden).double().log_softmax(dim=-1) for hidden in (teacher, student)]
    return float((logs[0].exp() * (logs[0] - logs[1])).sum())


def divergence_on(stage, rows) -> float:
    """KL from the bypass, in nats a token, of rows that hear the training clips."""
    stage.model.gate = 1.0
    batch = stage.batches.encode_retention(rows)
    return summed_divergence(SafeRetentionModel(stage.model), batch) / len(batch.labels)


def test_answers_without_an_image_stay_nearer_to_the_base_if_text_rows_are_protected(text_folder, configure, prepare):
    """On questions and documents not trained on, with clips attached; the control protects VL examples alone."""
    found = {}
    for share in (0.0, 0.5):
        config = configure(
            variant="soft_retention", data__root=text_folder, data__text_ratio=share, optimization__max_steps=40,
            optimization__audio_batch_size=8, optimization__vl_batch_size=8,
        )  # fmt: skip
        stage = prepare(config)
        clips = [row.audio for row in stage.batches.sampler.audio]
        rows = [replace(row, audio=clips[index]) for index, row in enumerate(held_back(config))]
        assert divergence_on(stage, rows) == pytest.approx(0.0, abs=1e-9)  # before the training
        for _ in range(40):
            stage.train_step(measure=False)
        found[share] = divergence_on(stage, rows)
    assert found[0.5] < 0.5 * found[0.0]


def held_back(config) -> list[Example]:
    from safe_train.training.build import load_examples

    return load_examples(config).val_text


def test_calibrations_see_text_rows_from_the_coming_batch_on(text_folder, configure, prepare):
    """The Fisher diagonal and the subspaces are of the retention examples: those of this step and of the next ones."""
    stage = prepare(configure(data__root=text_folder, data__text_ratio=0.5, data__length_buckets=True))
    for step in (0, 3):
        stage.step = step
        rows = [row for batch in stage._calibration_batches(12) for row in batch.rows]
        numbers = (step, step + 1, step + 2)
        expected = [row for number in numbers for row in stage.batches.sampler.retention_batch(number, 4)]
        assert rows == expected
        assert sum(row.image is None for row in rows) == 6


def test_with_accumulation_calibrations_begin_with_the_steps_first_micro_batch(text_folder, configure, prepare):
    stage = prepare(configure(data__root=text_folder, optimization__gradient_accumulation_steps=2))
    stage.step = 3
    rows = [row for batch in stage._calibration_batches(8) for row in batch.rows]
    assert rows == stage.batches.sampler.retention_batch(6, 4) + stage.batches.sampler.retention_batch(7, 4)


def test_mechanisms_are_told_by_how_much_the_gradient_was_clipped(configure, prepare, monkeypatch):
    """The coefficient is that of the norm before clipping: max_grad_norm over it, and 1 where it is smaller."""
    for max_grad_norm in (1e-3, 1e6):
        stage = prepare(configure(variant="full_retention", optimization__max_grad_norm=max_grad_norm))
        told = []
        monkeypatch.setattr(stage.retention, "before_optimizer_step", told.append)
        norm = stage.train_step()["gradient_norm"]
        assert told == [pytest.approx(min(1.0, max_grad_norm / norm), rel=1e-4)]
        assert (told[0] == 1.0) == (max_grad_norm > 1.0)


def test_teacher_states_of_text_rows_are_kept_apart(text_folder, configure, prepare):
    """And are those of the bypass: of documents, of questions with the words of one, and of VL examples."""
    stage = prepare(
        configure(variant="soft_retention", data__root=text_folder, data__text_ratio=0.5, retention__teacher_cache=True)
    )
    cache = stage.retention.model.teacher_cache
    document = Example("d", "", ("a red star",), kind="document")
    question = Example("q", "a red star", ("a red star",), kind="document")
    rows = [*protected(stage), document, question]
    batch = stage.batches.encode_retention(rows)
    expected = SafeRetentionModel(stage.model).teacher(batch)
    assert relative_error(cache.states(rows), expected) < LOGITS[torch.float32]
    assert torch.equal(cache.states(rows), cache.states(rows))
    own = batch.token_rows == len(rows) - 2
    assert cache.states([document]).shape[0] == int(own.sum())
    assert relative_error(cache.states([document]), expected[own]) < LOGITS[torch.float32]


def test_the_divergence_of_a_step_is_a_mean_over_its_batches_tokens(configure, prepare):
    """Of both micro-batches, where the last one alone was told before; a new step begins a new mean."""
    stage = opened(prepare(configure(variant="soft_retention", optimization__gradient_accumulation_steps=2)))
    batches = [stage.batches.at(number).retention[0] for number in (0, 1)]
    model = SafeRetentionModel(stage.model)
    sums, sizes = [summed_divergence(model, b) for b in batches], [len(b.labels) for b in batches]
    (kl,) = (mechanism for mechanism in stage.retention.mechanisms if isinstance(mechanism, Distillation))
    for _ in range(2):
        stage.retention.before_step(0, 0)
        stage.compute_gradient([], batches)
        assert kl.metrics()["kl"] == pytest.approx(sum(sums) / sum(sizes), rel=1e-4)
    assert abs(sums[1] / sizes[1] - sum(sums) / sum(sizes)) > 0.01 * sum(sums) / sum(sizes)
