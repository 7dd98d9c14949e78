"""Bases in four and eight bits, on a GPU."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from safe_train.configs.model_configs import EMBEDDED
from safe_train.model.audio.encoder import load_audio_encoder
from safe_train.model.loading import load_base
from safe_train.model.safe_model import AdapterConfig, SafeModel
from tests.model.families import FAMILIES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"),
]


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_a_quantized_base_hears_and_is_bypassed(tmp_path, quantization):
    """Linear layers are quantized, the head is not; the bypass keeps its bits, and what is trained has gradients."""
    folder = str(FAMILIES["llava"].save(tmp_path))
    options = {"dtype": torch.bfloat16, "device": "cuda", "quantization": quantization}
    base, untouched = load_base(folder, **options), load_base(folder, **options)
    kinds = {type(module).__name__ for module in base.decoder_layers.modules()}
    assert {"4bit": "Linear4bit", "8bit": "Linear8bitLt"}[quantization] in kinds
    assert base.head.weight.dtype == torch.bfloat16
    encoder = load_audio_encoder(EMBEDDED, device="cuda")
    config = AdapterConfig(num_audio_tokens=4, projector_hidden=16, fusion_layers=(0, 2), fusion_dim=32, fusion_heads=4)
    model = SafeModel(base, [encoder], config)
    for parameter in model.trainable_parameters().values():
        torch.nn.init.normal_(parameter, std=0.3)
    inputs = {"input_ids": torch.arange(40, 60, device="cuda")[None]}
    features = [encoder([torch.randn(32_000)])]
    with torch.no_grad():
        expected = untouched.model(**inputs).logits
        assert torch.equal(model.base.model(**inputs).logits, expected)
        assert not torch.equal(model.base.head(model.last_hidden_state(inputs, features)), expected)
    model.base.head(model.last_hidden_state(inputs, features)).square().sum().backward()
    for parameter in model.trainable_parameters().values():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.any()
