"""With gradient checkpointing the gradients are the same bits, and the layers' inner activations are not kept."""

import contextlib

import pytest
import torch

from safe_train.config import build_config
from safe_train.model.activation_checkpointing import checkpoint_layers, checkpointed
from safe_train.training.build import attach as attach_configured
from safe_train.training.build import load_base_model


def backward(model, batch) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    hidden = model.last_hidden_state(batch.inputs, batch.features)
    # After the block in which the audio is attached, as in training.
    hidden[batch.token_rows, batch.token_positions].square().sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.trainable_parameters().items()}


def kept_bytes(model, batch) -> int:
    """Bytes of distinct tensors that autograd keeps for the backward pass, the model's own weights left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.last_hidden_state(batch.inputs, batch.features)
    return sum(storages.values())


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_gradients_are_the_same_bits(source, rows, attach, lora_rank):
    model, encoder = attach(source, lora_rank=lora_rank)
    batch = encoder.training_batch(rows)
    plain = backward(model, batch)
    model.checkpoint_gradients()
    again = backward(model, batch)
    assert all(gradient.any() for gradient in plain.values())
    assert all(torch.equal(again[name], gradient) for name, gradient in plain.items())


def test_layers_run_again_and_keep_less(source, rows, attach):
    model, encoder = attach(source)
    batch = encoder.training_batch(rows)
    plain = kept_bytes(model, batch)
    calls = []
    model.base.decoder_layers[-1].input_layernorm.register_forward_hook(lambda *_: calls.append(None))
    backward(model, batch)
    assert len(calls) == 1
    model.checkpoint_gradients()
    backward(model, batch)
    assert len(calls) == 3
    # torch's saved-tensor hooks of the layer stand inside of those that measure, and hand nothing on.
    assert kept_bytes(model, batch) < 0.7 * plain


def test_generation_and_bypass_do_not_change(source, rows, attach):
    model, encoder = attach(source)
    prompts, features = encoder.prompt_batch(rows).inputs, encoder.features_of(rows)
    found = []
    for recomputes in (False, True):
        if recomputes:
            model.checkpoint_gradients()
        found.append([model.generate(prompts, heard, max_new_tokens=4, do_sample=False) for heard in (None, features)])
    assert all(torch.equal(first, second) for first, second in zip(*found, strict=True))


def test_lora_that_is_not_restored_is_caught(source, rows, attach, monkeypatch):
    """The control: run again without LoRA, the layers would give other gradients; torch or the comparison says so."""
    model, encoder = attach(source, lora_rank=2)
    batch = encoder.training_batch(rows)
    plain = backward(model, batch)
    monkeypatch.setattr(type(model), "_lora_as_it_is", lambda self: self.lora.as_active(False))
    model.checkpoint_gradients()
    try:
        again = backward(model, batch)
    except torch.utils.checkpoint.CheckpointError:
        return
    assert not all(torch.equal(again[name], gradient) for name, gradient in plain.items())


@pytest.mark.parametrize("checkpointed", [False, True])
def test_the_setting_switches_it(checkpointed):
    config = build_config({}, {"model.gradient_checkpointing": str(checkpointed).lower()})
    model = attach_configured(load_base_model(config), config)
    assert all(("forward" in vars(layer)) == checkpointed for layer in model.base.decoder_layers)


def test_layers_are_left_as_they_were():
    """One without a pass of its own, and one whose pass another has replaced."""
    plain, replaced = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    checkpoint_layers([replaced], contextlib.nullcontext)
    before = replaced.forward
    with checkpointed([plain, replaced], contextlib.nullcontext):
        assert "forward" in vars(plain)
        assert replaced.forward is not before
    assert "forward" not in vars(plain)
    assert replaced.forward is before
