"""What FSDP is told to leave whole."""

from types import SimpleNamespace

import pytest
import torch
from peft import (
    LoraConfig,
    get_peft_model,
)

from safe_train.errors import InputError
from safe_train.finetuning.fsdp import leave_trained_whole
from safe_train.finetuning.rows import RetentionBatch
from tests.finetuning.tiny_text import (
    BEGINNINGS,
    PROTECTED,
    collate,
    text_model,
)

SAMPLE = RetentionBatch.of(collate(PROTECTED), torch.device("cpu"))


def plugin(version=2, ignored=None):
    return SimpleNamespace(fsdp_version=version, ignored_modules=ignored)


@pytest.mark.parametrize("ignored", [None, r".*layers\.1\.mlp"], ids=["none", "a pattern"])
def test_what_is_trained_stays_whole_under_fsdp(ignored):
    model, given = text_model(adapter=True), plugin(ignored=ignored)
    leave_trained_whole(given, model, SAMPLE)
    left = {id(p) for module in given.ignored_modules for p in module.parameters()}
    assert {id(p) for p in model.parameters() if p.requires_grad} <= left
    frozen = {name: id(p) for name, p in model.named_parameters() if not p.requires_grad}
    whole = {name for name, number in frozen.items() if number in left}
    assert whole == {name for name in frozen if ignored and "layers.1.mlp" in name}


def test_what_fsdp_cannot_leave_whole_is_refused():
    with pytest.raises(InputError, match="FSDP: expected version 2, got version 1"):
        leave_trained_whole(plugin(version=1), text_model(adapter=True), SAMPLE)
    with pytest.raises(InputError, match="an adapter, which stays whole, got a training of the whole model"):
        leave_trained_whole(plugin(), text_model(adapter=False), SAMPLE)
    biased = LoraConfig(r=4, target_modules=["q_proj"], bias="lora_only")
    trained = text_model(adapter=True)
    for name, parameter in trained.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    others = [get_peft_model(text_model(adapter=False, biases=True), biased), trained]
    others.append(get_peft_model(text_model(adapter=False), BEGINNINGS["pissa"]()))
    for model in others:
        with pytest.raises(InputError, match="a fresh adapter, without which the model is as it was"):
            leave_trained_whole(plugin(), model, SAMPLE)
