"""What is kept is the model as it was given, whatever the adapter and however it begins."""

import copy

import pytest
import torch
from peft import (
    LoraConfig,
    get_peft_model,
)
from transformers import (
    Trainer,
)

from safe_train.finetuning.student import frozen_copy
from safe_train.huggingface import Retention
from tests.finetuning.tiny_text import (
    BEGINNINGS,
    OTHER_ADAPTERS,
    PROTECTED,
    SETTINGS,
    arguments,
    collate,
    retentive,
    rows,
    text_model,
    with_trained_norms,
)
from tests.finetuning.watching import EveryDivergence


@pytest.mark.parametrize("name", OTHER_ADAPTERS)
def test_what_is_logged_is_the_divergence_of_the_whole_model(tmp_path, name):
    """Whatever the adapter: trained vectors, rotations, prompts before the rows or in every layer."""
    torch.manual_seed(0)
    model = get_peft_model(text_model(adapter=False), OTHER_ADAPTERS[name]())
    trainer = retentive(
        tmp_path,
        model,
        Retention(PROTECTED, "soft_retention", rows_per_step=len(PROTECTED)),
        gradient_accumulation_steps=1,
    )
    divergences = EveryDivergence(model)
    trainer.add_callback(divergences)
    trainer.train()
    logged = [line["kl"] for line in trainer.state.log_history if "kl" in line]
    assert logged == pytest.approx(divergences.found, rel=1e-3, abs=1e-6)
    assert logged[-1] > 1e-5
    assert trainer.retention.stack.inactive() == []


def require_divergences_from_zero(trainer, divergences):
    """Trains: what is logged are the divergences of whole models, of which the first is none."""
    trainer.add_callback(divergences)
    trainer.train()
    logged = [line["kl"] for line in trainer.state.log_history if "kl" in line]
    assert logged == pytest.approx(divergences.found, rel=1e-3, abs=1e-6)
    assert logged[0] < 1e-6 < logged[-1]
    return divergences


@pytest.mark.parametrize("name", BEGINNINGS)
def test_what_is_kept_is_the_model_as_it_was_however_the_adapter_begins(tmp_path, name):
    """PiSSA and OLoRA change the weights below the adapter: without it, the model is another."""
    torch.manual_seed(0)
    model = get_peft_model(text_model(adapter=False), BEGINNINGS[name]())
    kept = Retention(PROTECTED, "soft_retention", rows_per_step=len(PROTECTED))
    trainer = retentive(tmp_path, model, kept, gradient_accumulation_steps=1)
    divergences = require_divergences_from_zero(trainer, EveryDivergence(model))
    with model.disable_adapter():
        changed = divergences.now() > 1e-3
    assert changed == (name in ("pissa", "olora"))


def trained_before():
    model = text_model(adapter=True)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(3))
    return model


def with_trained_biases():
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], bias="lora_only")
    return get_peft_model(text_model(adapter=False, biases=True), config)


@pytest.mark.filterwarnings("ignore:Careful, disabling adapter layers with bias:UserWarning")
@pytest.mark.parametrize("make", [trained_before, with_trained_norms, with_trained_biases])
def test_what_is_kept_is_the_model_as_it_was_given(tmp_path, make):
    """With the adapter that it had, and without what is trained beside one."""
    model = make()
    original = copy.deepcopy(model).eval()
    retention = Retention(PROTECTED, "soft_retention", rows_per_step=len(PROTECTED))
    trainer = retentive(tmp_path, model, retention, gradient_accumulation_steps=1)
    divergences = require_divergences_from_zero(trainer, EveryDivergence(model, original))
    with model.disable_adapter():
        assert divergences.now() > 1e-4  # which the model without its adapter is not


def test_a_frozen_copy_takes_the_memory_of_what_is_trained_alone():
    model = text_model(adapter=True)
    kept = frozen_copy(model)
    shared = {
        name for name, p in kept.named_parameters() if p.data_ptr() == dict(model.named_parameters())[name].data_ptr()
    }
    assert shared == {name for name, p in model.named_parameters() if not p.requires_grad}
    assert not any(p.requires_grad for p in kept.parameters())
    assert any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("name", OTHER_ADAPTERS)
def test_other_adapters_are_retained(tmp_path, name):
    """Beside a training without retention, less has changed."""
    changes_of = {}
    for scale in (None, 100.0):
        torch.manual_seed(0)
        model = get_peft_model(text_model(adapter=False), OTHER_ADAPTERS[name]())
        options = {"max_steps": 20, "gradient_accumulation_steps": 1}
        if scale is None:
            Trainer(
                model=model, args=arguments(tmp_path, **options), train_dataset=rows(64, 1), data_collator=collate
            ).train()
        else:
            settings = SETTINGS.model_copy(update={"retention_scale": scale})
            kept = Retention(PROTECTED, "soft_retention", settings=settings, rows_per_step=len(PROTECTED))
            retentive(tmp_path, model, kept, **options).train()
        changes_of[scale] = EveryDivergence(model).now()
    assert 0 < changes_of[100.0] < 0.9 * changes_of[None]
