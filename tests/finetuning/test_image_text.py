"""Image-text models in the `Trainer`: rows with an image, with two and with none among the retention examples."""

import copy

import pytest
import torch
import torch.nn.functional as F
from transformers import Trainer, TrainerCallback

from safe_train.errors import InputError
from safe_train.finetuning.chats import ChatCollator
from safe_train.finetuning.rows import RetentionBatch, RetentionExamples
from safe_train.finetuning.student import RetentionLanguageModel, trained_linears
from safe_train.huggingface import Retention
from safe_train.retention.ewc import accumulate_fisher
from safe_train.retention.settings import RetentionSettings
from tests.finetuning.tiny_images import KINDS, image_model, image_rows, loaded
from tests.finetuning.tiny_text import RetentiveTrainer, arguments
from tests.tolerances import LEAKAGE, LOGITS, relative_error

CPU = torch.device("cpu")
PROTECTED = image_rows(6, 2)
SETTINGS = RetentionSettings(null_space_min_samples=6, fisher_samples=6, null_space_refresh_interval=12)


def train(folder, kind, retention=None, targets="decoder", **options):
    model = image_model(kind, targets)
    defaults = {"max_steps": 5, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1}
    given = {
        "model": model, "args": arguments(folder, remove_unused_columns=False, **defaults | options),
        "train_dataset": image_rows(12, 1), "data_collator": ChatCollator(loaded(kind)[1]),
        "processing_class": loaded(kind)[1],
    }  # fmt: skip
    trainer = Trainer(**given) if retention is None else RetentiveTrainer(**given, retention=retention)
    return trainer, model


def divergence(kind, model):
    """Mean KL in nats of the protected answers' distributions, by whole models' logits and each row alone."""
    total, tokens, original = 0.0, 0, loaded(kind)[0].eval()
    was_training = model.training
    model.eval()
    for row in PROTECTED:
        batch = RetentionBatch.of(ChatCollator(loaded(kind)[1])([row]), CPU)
        with torch.no_grad():
            old, new = (
                m(**batch.inputs).logits[0, batch.positions].double().log_softmax(-1) for m in (original, model)
            )
        total += F.kl_div(new, old, reduction="sum", log_target=True).item()
        tokens += len(batch.labels)
    model.train(was_training)
    return total / tokens


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_logged_is_the_divergence_of_the_whole_model(tmp_path, kind):
    found = []

    class EveryDivergence(TrainerCallback):
        def on_step_begin(self, *_args, model, **_options):
            found.append(divergence(kind, model))

    trainer, _ = train(tmp_path, kind, Retention(PROTECTED, settings=SETTINGS, rows_per_step=len(PROTECTED)))
    trainer.add_callback(EveryDivergence())
    trainer.train()
    logged = [line["kl"] for line in trainer.state.log_history if "kl" in line]
    assert logged == pytest.approx(found, rel=2e-3, abs=1e-6)
    assert logged[-1] > 1e-5
    assert trainer.retention.stack.inactive() == []
    assert trainer.state.log_history[-2]["null_space_leakage"] < LEAKAGE


@pytest.mark.parametrize("kind", ["llava", "qwen2_5_vl"])
def test_a_training_without_it_forgets_more(tmp_path, kind):
    options = {"max_steps": 12}
    plain, model = train(tmp_path, kind, **options)
    assert divergence(kind, model) < 1e-10
    plain.train()
    settings = SETTINGS.model_copy(update={"retention_scale": 50.0})
    kept, kept_model = train(tmp_path, kind, Retention(PROTECTED, settings=settings, rows_per_step=6), **options)
    kept.train()
    assert divergence(kind, kept_model) < 0.5 * divergence(kind, model)


def by_autograd(student, linears, data, collate):
    """The Fisher diagonal with the data's labels, in float64: each row's gradient, squared and summed."""
    found = {name: torch.zeros_like(module.weight, dtype=torch.float64) for name, module in linears.items()}
    for row in data:
        batch = RetentionBatch.of(collate([row]), CPU)
        states = student.student(batch)
        loss = F.cross_entropy(student.head(states.hidden), states.labels, reduction="sum")
        weights = [module.weight for module in linears.values()]
        for name, gradient in zip(found, torch.autograd.grad(loss, weights, allow_unused=True), strict=True):
            found[name] += 0 if gradient is None else gradient.double().square()
    return found


@pytest.mark.parametrize("targets", ["decoder", "everything"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_rows_gradient_is_its_own_in_the_vision_tower_too(kind, targets):
    """There the leading axis is that of images, tiles or patches, and a row may have two of them or none."""
    model, collate = image_model(kind, targets), ChatCollator(loaded(kind)[1])
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    examples = RetentionExamples(PROTECTED, collate, batch_size=3, seed=0, device=CPU)
    linears = trained_linears(model)
    student = RetentionLanguageModel(model, None, examples.batch(0))
    alone = not student.keeps_rows(linears, examples.batch(0))
    assert alone == (targets == "everything")
    expected = by_autograd(student, linears, PROTECTED, collate)
    given = {"labels": "empirical", "seed": 0}
    batches = examples.coming(0, len(PROTECTED), one_by_one=alone)
    found, count = accumulate_fisher(student, linears, batches, **given)
    assert count == len(PROTECTED)
    assert all(expected[name].any() for name in linears if "vision" not in name)
    for name in linears:
        assert relative_error(found[name], expected[name]) < 2 * LOGITS[torch.float32], name  # of squares
    if alone:  # taken together, it is noticed or wrong
        with pytest.raises(ValueError, match="take one at a time"):
            accumulate_fisher(student, linears, examples.coming(0, len(PROTECTED)), **given)


@pytest.mark.parametrize("kind", ["llava", "qwen2_vl"])
def test_a_vision_tower_alone_is_trained_beside_rows_without_an_image(tmp_path, kind):
    """One of the retention examples a step: of those without an image, none has a gradient."""
    trainer, _ = train(tmp_path, kind, Retention(PROTECTED, settings=SETTINGS, rows_per_step=1), "tower", max_steps=12)
    trainer.train_dataset = [row for row in image_rows(36, 1) if row["images"]]
    trainer.train()
    assert trainer.retention.stack.inactive() == []
    assert trainer.state.log_history[-2]["null_space_leakage"] < LEAKAGE


def test_messages_of_a_vision_model_need_its_processor():
    tokenizer = copy.deepcopy(loaded("llava")[1].tokenizer)
    tokenizer.chat_template = loaded("llava")[1].chat_template
    with pytest.raises(InputError, match="a processor, for rows with images, got a tokenizer"):
        ChatCollator(tokenizer)(PROTECTED[:1])
