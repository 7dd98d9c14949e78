"""Sizes are read from the base, trained parts go to disk alone and come back, wrong folders are told apart."""

import gc
import json
import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file

from safe_train.errors import InputError
from safe_train.model.audio.encoder import load_audio_encoder
from safe_train.model.loading import load_base
from safe_train.model.safe_model import ADAPTER_CONFIG, ADAPTER_WEIGHTS, FusionStatistics


def test_sizes_are_the_bases(sources):
    found = {name: (load_base(s).hidden_size, len(load_base(s).decoder_layers)) for name, s in sources.items()}
    assert found == {"embedded": (128, 3), "llava": (64, 4), "qwen2_vl": (64, 4)}


def test_head_gives_the_bases_logits(source, rows, attach):
    model, encoder = attach(source)
    inputs = encoder.training_batch(rows).inputs
    with torch.no_grad():
        expected = model.base.model(**inputs, use_cache=False).logits
        assert torch.equal(model.base.head(model.base.last_hidden_state(**inputs)), expected)


def test_trained_parts_come_back_and_the_base_is_not_among_them(tmp_path, attach, rows):
    model, encoder = attach("embedded", lora_rank=2)
    model.save_adapter(tmp_path)
    stored = load_file(tmp_path / ADAPTER_WEIGHTS)
    assert set(stored) == set(model.trainable_parameters())
    described = json.loads((tmp_path / ADAPTER_CONFIG).read_text())
    assert (described["base_model"], described["audio_features"]) == ("embedded", ["pooled"])
    other, _ = attach("embedded", trained=False, lora_rank=2)
    other.load_adapter(tmp_path)
    batch = encoder.training_batch(rows)
    with torch.no_grad():
        first, second = (m.last_hidden_state(batch.inputs, batch.features) for m in (model, other))
    assert torch.equal(first, second)


def test_trained_parts_of_another_configuration_are_refused(tmp_path, attach):
    model, _ = attach("embedded")
    model.save_adapter(tmp_path)
    tensors = load_file(tmp_path / ADAPTER_WEIGHTS)
    name = next(iter(tensors))
    save_file(tensors | {name: torch.zeros(2, 2)}, tmp_path / ADAPTER_WEIGHTS)
    with pytest.raises(InputError, match=name):
        model.load_adapter(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        model.load_adapter(tmp_path / "elsewhere")


def test_same_seed_same_initialization(attach):
    first, second = (attach("embedded", trained=False)[0].trainable_parameters() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_detached_base_holds_nothing_of_the_fusions(attach, rows):
    model, encoder = attach("embedded")
    base, batch = model.base, encoder.training_batch(rows)
    held = [weakref.ref(fusion) for fusion in model.fusions]
    with torch.no_grad():
        fused = model.last_hidden_state(batch.inputs, batch.features)
        model.detach()
        assert not torch.equal(fused, model.last_hidden_state(batch.inputs, batch.features))
        assert torch.equal(base.last_hidden_state(**batch.inputs), model.last_hidden_state(batch.inputs, None))
    del model
    gc.collect()
    assert all(reference() is None for reference in held)


def test_statistics_measure_the_fusion(attach, rows):
    model, encoder = attach("embedded")
    batch = encoder.training_batch(rows)
    seen = []
    handles = [
        fusion.register_forward_hook(lambda _m, args, out: seen.append((args[0], out))) for fusion in model.fusions
    ]
    model.statistics = FusionStatistics()
    with torch.no_grad():
        model.last_hidden_state(batch.inputs, batch.features)
    expected = [
        [update.double().flatten(1).norm(dim=1) / hidden.double().flatten(1).norm(dim=1)] for hidden, update in seen
    ]
    assert model.statistics.calls == {layer: 1 for layer in model.config.fusion_layers}
    for row, updates in enumerate(model.statistics.updates()):
        assert updates == pytest.approx([layer[0][row].item() for layer in expected], rel=1e-5)
    for handle in handles:
        handle.remove()
    model.gate, model.statistics = 0.0, FusionStatistics()
    model.last_hidden_state(batch.inputs, batch.features)
    assert (model.statistics.calls, model.statistics.updates()) == ({}, [])


@pytest.mark.parametrize("content", ["nothing", "no weights", "pickled weights"])
def test_a_folder_that_is_no_model_is_one_line(tmp_path, content):
    if content != "nothing":
        (tmp_path / "config.json").write_text("{}")
    if content == "pickled weights":
        (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    for load in (load_base, load_audio_encoder):
        with pytest.raises(InputError, match=r"config\.json|safetensors") as caught:
            load(str(tmp_path))
        assert "\n" not in str(caught.value)


def test_a_model_of_another_kind_is_refused(sources):
    with pytest.raises(InputError, match="an audio encoder with safetensors weights and a feature extractor"):
        load_audio_encoder(sources["llava"])
