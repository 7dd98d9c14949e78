"""Bases that SAFE cannot work with, and machines that cannot run what is asked for, are refused in one line."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageTextToText,
    Blip2Config,
    Blip2ForConditionalGeneration,
    BloomConfig,
    CLIPVisionConfig,
    EfficientNetConfig,
    FastVlmConfig,
    Florence2Config,
    LlamaConfig,
    LlavaConfig,
    OPTConfig,
    PreTrainedConfig,
    T5Config,
)

from safe_train.config import build_config
from safe_train.errors import InputError
from safe_train.model.audio.encoder import load_audio_encoder
from safe_train.model.loading import attention_by_part, load_base
from safe_train.model.requirements import refuse_architecture, with_head_found
from safe_train.training.build import load_base_model
from tests.model.families import FAMILIES
from tests.tolerances import LOGITS, relative_error

TOWER = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
LANGUAGE_MODELS = {
    "opt": OPTConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, ffn_dim=32, num_attention_heads=2,
        max_position_embeddings=64, word_embed_proj_dim=32,
    ),
    "t5": T5Config(vocab_size=50, d_model=32, num_layers=1, d_ff=32, num_heads=2, d_kv=16),
}  # fmt: skip


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    return FAMILIES["llava"].save(tmp_path_factory.mktemp("llava"))


def refused(load, *arguments, **options) -> str:
    """The error's one line."""
    with pytest.raises(InputError) as caught:
        load(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("language_model", LANGUAGE_MODELS)
def test_blip2_is_refused_with_the_reason(tmp_path, language_model):
    config = Blip2Config(
        vision_config=TOWER,
        qformer_config={**TOWER, "encoder_hidden_size": 32, "vocab_size": 50},
        text_config=LANGUAGE_MODELS[language_model],
        num_query_tokens=2,
    )
    Blip2ForConditionalGeneration(config).save_pretrained(tmp_path)
    assert "blip-2: a query former before a whole language model, and no chat template" in refused(
        load_base, str(tmp_path)
    )


@pytest.mark.parametrize("config", [Florence2Config(), T5Config()], ids=["florence2", "t5"])
def test_an_encoder_decoder_is_refused_with_the_reason(config: PreTrainedConfig):
    assert f"got {config.model_type}: an encoder-decoder" in refused(refuse_architecture, config, "folder")


@pytest.mark.parametrize("cap", [None, 30.0])
def test_a_cap_that_the_class_does_not_apply_is_left_out(tmp_path, cap):
    """Gemma 3 has a setting for one that its multimodal class does not read."""
    folder = FAMILIES["gemma3"].save(tmp_path)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["text_config"]["final_logit_softcapping"] = cap
    path.write_text(json.dumps(config))
    base = load_base(str(folder))
    hidden = torch.full((1, base.hidden_size), 1e6)
    assert base.head.logit_softcap is None
    assert torch.equal(base.head(hidden), torch.nn.functional.linear(hidden, base.head.weight))


def test_the_probe_sees_a_cap_whatever_the_size_of_the_weights(llava):
    """The logits of random models lie far below any cap."""
    base = load_base(str(llava))
    base.text_config.final_logit_softcapping = 30.0
    with torch.no_grad():
        base.model.get_output_embeddings().weight.mul_(1e-3)
    assert with_head_found(base).head.logit_softcap is None
    forward = base.model.forward

    def capped(*arguments, **keywords):
        output = forward(*arguments, **keywords)
        output.logits = 30.0 * torch.tanh(output.logits / 30.0)
        return output

    base.model.forward = capped
    assert with_head_found(base).head.logit_softcap == 30.0


def test_scaled_logits_are_refused(llava):
    """As Granite's and Cohere's classes compute them."""
    base = load_base(str(llava))
    forward = base.model.forward

    def scaled(*arguments, **keywords):
        output = forward(*arguments, **keywords)
        output.logits = output.logits * 0.9
        return output

    base.model.forward = scaled
    assert "other logits in LlavaForConditionalGeneration (relative difference 0.1)" in refused(with_head_found, base)


def test_missing_weights_are_told(llava, tmp_path):
    """transformers alone would leave them at random values and warn."""
    for file in llava.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    names = [name for name in tensors if name.endswith("lm_head.weight")]
    save_file({name: tensor for name, tensor in tensors.items() if name not in names}, path, {"format": "pt"})
    assert len(names) == 1
    assert "weights for every parameter, got none for lm_head.weight (1 missing)" in refused(load_base, str(tmp_path))


INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    "named", ["weights.bin", "../elsewhere/weights.bin", "../elsewhere/weights.safetensors", "a/b.safetensors", 7, None]
)
@pytest.mark.parametrize("load", [load_base, load_audio_encoder])
def test_an_index_may_name_safetensors_of_its_folder_alone(load, named, llava, tmp_path):
    """transformers opens what it names: a pickled file too, beside a file of safetensors that nobody reads."""
    folder = shutil.copytree(llava, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "decoy.safetensors")
    for path in (folder / "weights.bin", tmp_path / "elsewhere" / "weights.bin"):
        path.parent.mkdir(exist_ok=True)
        torch.save(tensors, path)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(tensors, named)}))
    line = refused(load, str(folder))
    assert f"an index whose weights are *.safetensors files beside it, got {named!r}" in line


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"weight_map": 7}', "[" * 50_000])
def test_a_damaged_index_is_told(llava, tmp_path, text):
    folder = shutil.copytree(llava, tmp_path / "model")
    (folder / INDEX).write_text(text)
    assert f"{folder / INDEX}: expected an index" in refused(load_base, str(folder))


def test_weights_in_several_files_are_read(llava, tmp_path):
    folder = shutil.copytree(llava, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    parts = {f"model-{part}-of-2.safetensors": dict(sorted(tensors.items())[part::2]) for part in range(2)}
    for name, part in parts.items():
        save_file(part, folder / name, {"format": "pt"})
    names = {tensor: name for name, part in parts.items() for tensor in part}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))
    found, expected = (dict(load_base(str(path)).model.named_parameters()) for path in (folder, llava))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("place", [(), ("text_config",), ("vision_config",)])
@pytest.mark.parametrize("named", ["x/kernel", "x/kernel@main:f", "paged|x/kernel"])
def test_a_folder_has_no_say_in_how_attention_is_computed(llava, tmp_path, place, named, monkeypatch):
    """transformers would fetch the kernel from a hub, and run it."""
    asked = []
    monkeypatch.setattr(
        "transformers.modeling_utils.lazy_import_flash_attention", lambda *names, **_: asked.append(names)
    )
    folder = shutil.copytree(llava, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    part = config
    for name in place:
        part = part[name]
    part |= {"attn_implementation": named, "_attn_implementation": named, "experts_implementation": named}
    (folder / "config.json").write_text(json.dumps(config))
    base = load_base(str(folder))
    assert base.text_config._attn_implementation == load_base(str(llava)).text_config._attn_implementation == "sdpa"
    assert asked == []


def test_a_folder_with_a_tokenizer_alone_is_refused(llava, tmp_path):
    for file in llava.iterdir():
        if "processor" not in file.name and file.name != "chat_template.jinja":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    line = refused(load_base, str(tmp_path))
    assert "processor" in line


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_is_the_one_that_is_asked_for(attention):
    base = load_base_model(build_config({}, {"model.attention": attention, "device": "cpu"}))
    assert base.text_config._attn_implementation == attention


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_convolutional_tower_has_no_say_in_the_decoders_attention(attention, tmp_path):
    """transformers alone refuses the model with SDPA, since EfficientNet has no attention to compute by it."""
    folder = str(FAMILIES["fast_vlm"].save(tmp_path))
    base = load_base(folder, attention=attention)
    assert base.text_config._attn_implementation == attention
    assert base.model.config.vision_config._attn_implementation == "eager"
    if attention == "sdpa":
        with pytest.raises(ValueError, match="EfficientNetModel does not support"):
            AutoModelForImageTextToText.from_pretrained(folder, attn_implementation=attention)


def test_attention_is_named_by_part_for_such_a_tower_alone():
    """A decoder without the implementation is not to fall back in silence."""
    by_part = {"": "flash_attention_2", "text_config": "flash_attention_2"}
    vision, text = CLIPVisionConfig(), LlamaConfig()
    for config, expected in (
        (FastVlmConfig(vision_config=EfficientNetConfig(), text_config=text), by_part),
        (LlavaConfig(vision_config=vision, text_config=text), "flash_attention_2"),
        (LlavaConfig(vision_config=vision, text_config=BloomConfig()), "flash_attention_2"),
    ):
        assert attention_by_part(config, "flash_attention_2") == expected


def test_attentions_agree(llava):
    """Two ways to compute the same."""
    inputs = {"input_ids": torch.arange(40, 60)[None]}
    with torch.no_grad():
        first, second = (load_base(str(llava), attention=name).model(**inputs).logits for name in ("sdpa", "eager"))
    assert relative_error(first, second) <= LOGITS[torch.float32]


def test_flash_attention_is_refused_where_it_cannot_run(llava):
    assert "a CUDA device for flash_attention_2, got cpu; choose sdpa" in refused(
        load_base, str(llava), attention="flash_attention_2"
    )


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_quantization_is_refused_where_it_cannot_run(llava, quantization, monkeypatch):
    config = build_config({}, {"model.quantization": quantization, "device": "cpu"})
    assert f"model.quantization: expected a CUDA device for {quantization}, got cpu" in refused(load_base_model, config)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    line = refused(load_base, str(llava), device="cuda", quantization=quantization)
    assert "the package bitsandbytes, got none installed; pip install 'bitsandbytes>=0.46.1'" in line


def test_code_from_a_models_folder_is_not_run(llava, tmp_path):
    """A folder whose configuration names a class of its own, in a file that would leave a trace."""
    for file in llava.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    trace = tmp_path / "trace"
    (tmp_path / "own.py").write_text(f"from pathlib import Path\nPath({str(trace)!r}).touch()\nclass Own: pass\n")
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForImageTextToText": "own.Own"}}
    path.write_text(json.dumps(config))
    refused(load_base, str(tmp_path))
    assert not trace.exists()


@pytest.mark.parametrize("source", ["path/to/llava", "/none", "./none", "~/none", "a/b/c/d"])
def test_what_reads_as_a_path_and_is_not_there_is_no_hub_id(source):
    """It is not asked for in the hub, whose answer would be about the form of ids."""
    with pytest.raises(InputError, match=r"expected the folder of the vision-language model, got no such folder"):
        load_base(source)
