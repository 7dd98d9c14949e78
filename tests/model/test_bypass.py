"""The bypass is the base bit for bit, in logits and in generation; with audio attached it is not."""

import pytest
import torch

from safe_train.data.cache.features import FeatureCache
from safe_train.data.collator import Collator
from safe_train.model.audio.encoder import AudioFeatures
from safe_train.model.loading import load_base

GENERATION = [
    pytest.param({"max_new_tokens": 6, "do_sample": False}, id="greedy with cache"),
    pytest.param({"max_new_tokens": 6, "do_sample": False, "use_cache": False}, id="greedy without cache"),
    pytest.param({"max_new_tokens": 5, "num_beams": 2, "do_sample": False}, id="two beams"),
]


def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs, use_cache=False).logits


def test_logits_are_the_bases_bit_for_bit(source, rows, attach):
    model, encoder = attach(source)
    inputs = encoder.training_batch(rows).inputs
    untouched = logits(load_base(source).model, inputs)
    with model.bypass():
        assert torch.equal(logits(model.base.model, inputs), untouched)
    assert torch.equal(logits(model.base.model, inputs), untouched)  # nothing attached is the bypass, too
    with model.attached(encoder.features_of(rows)):
        assert not torch.equal(logits(model.base.model, inputs), untouched)
        with model.bypass():  # the teacher in the middle of the student's block
            assert torch.equal(logits(model.base.model, inputs), untouched)
        model.gate = 0.0
        assert torch.equal(logits(model.base.model, inputs), untouched)


@pytest.mark.parametrize("options", GENERATION)
def test_generations_are_the_bases(source, rows, attach, options):
    model, encoder = attach(source)
    untouched = load_base(source)
    prompts = Collator(untouched.processor, FeatureCache([])).prompt_batch([*rows]).inputs
    expected = untouched.model.generate(**prompts, **options)[:, prompts["input_ids"].shape[1] :]
    assert torch.equal(model.generate(prompts, None, **options), expected)
    heard = model.generate(prompts, encoder.features_of(rows), **options)
    assert heard.shape[0] == expected.shape[0]
    assert heard.shape != expected.shape or not torch.equal(heard, expected)


def test_generation_with_audio_is_the_same_with_and_without_cache(source, rows, attach):
    model, encoder = attach(source)
    prompts, features = encoder.prompt_batch(rows).inputs, encoder.features_of(rows)
    options = {"max_new_tokens": 6, "do_sample": False}
    cached, plain = (model.generate(prompts, features, **options, use_cache=use) for use in (True, False))
    assert torch.equal(cached, plain)


def test_a_new_fusion_has_no_effect(source, rows, attach):
    model, encoder = attach(source, trained=False)
    inputs = encoder.training_batch(rows).inputs
    with model.attached(encoder.features_of(rows)):
        with_audio = logits(model.base.model, inputs)
    assert torch.allclose(with_audio, logits(model.base.model, inputs), rtol=0, atol=0)


def test_rows_without_audio_keep_their_bits_beside_rows_with_audio(source, rows, attach):
    model, encoder = attach(source)
    inputs = encoder.training_batch(rows).inputs
    features = encoder.features_of(rows)[0]
    mask = features.mask.clone()
    mask[1] = False
    with model.attached([AudioFeatures(features.values, mask)]):
        mixed = logits(model.base.model, inputs)
    untouched = logits(model.base.model, inputs)
    assert torch.equal(mixed[1], untouched[1])
    assert not torch.equal(mixed[0], untouched[0])


def test_what_a_masked_feature_holds_does_not_matter(attach, rows):
    model, encoder = attach("embedded")
    features = encoder.features_of(rows)[0]
    two = AudioFeatures(features.values.repeat(1, 2, 1), torch.tensor([[True, False]] * 3))
    changed = two.values.clone()
    changed[:, 1] = 1e3

    def through_fusion(values):
        tokens = model.projectors[0](AudioFeatures(values, two.mask))
        return model.fusions[0](torch.ones(3, 2, model.base.hidden_size), *tokens)

    model.projectors[0].segments = 2
    assert torch.equal(through_fusion(two.values), through_fusion(changed))
    assert torch.isfinite(through_fusion(changed)).all()
    shown = AudioFeatures(changed, torch.ones_like(two.mask))
    unmasked = model.fusions[0](torch.ones(3, 2, model.base.hidden_size), *model.projectors[0](shown))
    assert not torch.equal(unmasked, through_fusion(changed))


def test_with_lora_the_bypass_is_still_the_base(source, rows, attach):
    model, encoder = attach(source, lora_rank=2)
    inputs = encoder.training_batch(rows).inputs
    untouched = logits(load_base(source).model, inputs)
    assert torch.equal(logits(model.base.model, inputs), untouched)
    for fusion in model.fusions:
        torch.nn.init.zeros_(fusion.output.weight)
    with model.attached(encoder.features_of(rows)):
        assert not torch.equal(logits(model.base.model, inputs), untouched)  # LoRA alone is at work
    assert torch.equal(logits(model.base.model, inputs), untouched)
    silent = encoder.features_of(rows)[0]
    with (
        pytest.raises(ValueError, match="every row of a batch must have audio"),
        model.attached([AudioFeatures(silent.values, torch.zeros_like(silent.mask))]),
    ):
        pass


def test_the_base_is_not_changed(source, rows, attach):
    model, encoder = attach(source)
    reference = load_base(source).model.state_dict()
    batch = encoder.training_batch(rows)
    model.last_hidden_state(batch.inputs, batch.features).sum().backward()
    assert all(torch.equal(value, reference[name]) for name, value in model.base.model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.base.model.parameters())
    assert all(parameter.grad is not None for parameter in model.trainable_parameters().values())
