"""Bases of several classes behind the Hugging Face interface: their tokens, SAFE's answers, the base without audio."""

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from safe_train.configs.model_configs import EMBEDDED
from safe_train.data.cache.features import FeatureCache
from safe_train.data.collator import Collator
from safe_train.data.example import Example
from safe_train.huggingface import SafeForConditionalGeneration
from safe_train.model.audio.encoder import load_audio_encoder
from safe_train.model.loading import load_base
from safe_train.model.safe_model import AdapterConfig, SafeModel
from tests.huggingface.made import conversation
from tests.model.families import FAMILIES

OPTIONS = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}


@pytest.fixture(scope="module")
def two_rows(tmp_path_factory):
    """Questions of different lengths, each with an image and a clip."""
    folder, rng, made = tmp_path_factory.mktemp("rows"), np.random.default_rng(0), []
    for index, question in enumerate(["where is it?", "is there a red star or is there not?"]):
        image, audio = folder / f"{index}.png", folder / f"{index}.wav"
        Image.fromarray(rng.integers(0, 255, (60, 60, 3), dtype=np.uint8)).save(image)
        soundfile.write(audio, 0.1 * rng.standard_normal(32_000), 16_000)
        made.append(Example(str(index), question, ("top left",), image, audio))
    return made


def attached(source):
    """SAFE on a base, loud enough to change answers."""
    base = load_base(source)
    shape = AdapterConfig(
        num_audio_tokens=4, projector_hidden=16, fusion_layers=(0,), fusion_dim=32, fusion_heads=4, init_seed=1
    )
    model = SafeModel(base, [load_audio_encoder(EMBEDDED)], shape)
    generator = torch.Generator().manual_seed(0)
    torch.nn.init.normal_(model.fusions[0].output.weight, std=3.0, generator=generator)
    return model


@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_5_vl", "smolvlm", "gemma3", "paligemma"])
def test_a_base_of_this_class(name, tmp_path, two_rows):
    source = str(FAMILIES[name].save(tmp_path / "base"))
    plain = attached(source)
    SafeForConditionalGeneration.from_safe_model(attached(source)).save_pretrained(tmp_path / "adapter")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "adapter")
    processor = AutoProcessor.from_pretrained(tmp_path / "adapter")
    inputs = processor.apply_chat_template([conversation(row) for row in two_rows], **OPTIONS)

    encoder = Collator(plain.base.processor, FeatureCache(list(plain.encoders)))
    expected = encoder.prompt_batch(two_rows)
    assert {n for n in inputs if not n.startswith("audio")} == expected.inputs.keys()
    assert all(torch.equal(inputs[n], value) for n, value in expected.inputs.items())

    answers = model.generate(**inputs, max_new_tokens=3, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    theirs = plain.generate(expected.inputs, expected.features, max_new_tokens=3, do_sample=False)
    assert torch.equal(answers, theirs)
    with torch.no_grad():
        heard, base = model(**inputs).logits, load_base(source).model(**expected.inputs).logits
        assert torch.equal(model(**expected.inputs).logits, base)
    assert not torch.equal(heard, base)
