"""Folders whose files do not fit together are refused in one line when they are loaded; older ones that work, work."""

from __future__ import annotations

import json
import shutil
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from safe_train.data.cache.features import FeatureCache
from safe_train.data.collator import Collator
from safe_train.embedded import weights
from safe_train.errors import InputError
from safe_train.evaluation.base_answers import base_answers
from safe_train.evaluation.settings import EvaluationSettings
from safe_train.model import trial
from safe_train.model.audio.encoder import load_audio_encoder
from safe_train.model.folders import as_input_error, in_short
from safe_train.model.loading import load_base
from safe_train.model.prompting import ChatPrompts
from tests.model.audio_models import AUDIO_MODELS
from tests.model.families import FAMILIES

CONFIG, PROCESSOR, TOKENIZER, GENERATION = (
    "config.json", "processor_config.json", "tokenizer_config.json", "generation_config.json",
)  # fmt: skip
BILLION = 1_000_000_000


def set_to(*names: str, value: Any):
    """Changes one value of a JSON file."""

    def change(values):
        part = values
        for name in names[:-1]:
            part = part[name]
        part[names[-1]] = value
        return values

    return change


SETTINGS = {
    f"{'.'.join(names)}={value}": (file, set_to(*names, value=value))
    for file, names, values in (
        (CONFIG, ("text_config", "num_hidden_layers"), (BILLION, 0, -1, "two", None, 1, 40)),
        (CONFIG, ("vision_config", "num_hidden_layers"), (BILLION, "two", 40)),
        (CONFIG, ("text_config", "hidden_size"), (BILLION, 64, 0, -5, "wide", None, 1.5)),
        (CONFIG, ("vision_config", "hidden_size"), (BILLION, 64, 0)),
        (CONFIG, ("text_config", "vocab_size"), (BILLION, 20, 0)),
        (CONFIG, ("text_config", "num_attention_heads"), (3, 0, "four")),
        (CONFIG, ("text_config", "intermediate_size"), (BILLION, 7)),
        (CONFIG, ("text_config", "hidden_act"), ("none of them", 7)),
        (CONFIG, ("text_config", "rope_parameters"), ({"rope_type": "unknown"}, 7)),
        (CONFIG, ("text_config", "max_position_embeddings"), (2,)),
        (CONFIG, ("vision_config", "patch_size"), (0, 7, 1000, "x")),
        (CONFIG, ("vision_config", "image_size"), (0, 10, BILLION)),
        (CONFIG, ("vision_feature_layer",), (99, "last", [0, 99])),
        (CONFIG, ("vision_feature_select_strategy",), ("some", "full", 7)),
        (CONFIG, ("image_token_id",), (BILLION, -1, 7)),
        (CONFIG, ("image_token_index",), (BILLION, 7)),
        (CONFIG, ("model_type",), ("unknown", 7, None)),
        (CONFIG, ("text_config",), (7, None, "x")),
        (CONFIG, ("vision_config",), (7, None, "x")),
        (CONFIG, ("dtype",), ("float7", 7)),
        (CONFIG, ("quantization_config",), ({"quant_method": "unknown"}, 7)),
        (CONFIG, ("output_hidden_states",), (True,)),
        (CONFIG, ("return_dict",), (False,)),
        (GENERATION, ("num_beams",), ("four", -1)),
        (GENERATION, ("temperature",), (-1.0, "warm")),
        (GENERATION, ("eos_token_id",), ("end", [[1]], BILLION)),
        (PROCESSOR, ("patch_size",), (0, 7, 1000, "x", None)),
        (PROCESSOR, ("num_additional_image_tokens",), (7, "x")),
        (PROCESSOR, ("image_token",), ("absent", 7, None)),
        (PROCESSOR, ("image_processor", "size"), ({"height": 30_000, "width": 30_000}, {"height": 7, "width": 7}, "x")),
        (PROCESSOR, ("image_processor", "image_processor_type"), ("Unknown", 7)),
        (PROCESSOR, ("processor_class",), ("Unknown", 7)),
        (TOKENIZER, ("tokenizer_class",), ("Unknown", 7)),
        (TOKENIZER, ("pad_token",), (None,)),
        (TOKENIZER, ("eos_token",), (None, "absent")),
        (TOKENIZER, ("bos_token",), (None,)),
    )
    for value in values
}  # fmt: skip
TEMPLATES = {
    "no template": None,
    "empty": "",
    "broken": "{% for",
    "raises": "{{ raise_exception('no images here') }}",
    "unknown name": "{{ messages.absent.more }}",
    "unknown filter": "{{ messages | absent }}",
    "division": "{{ 1 / 0 }}",
    "string content": "{% for m in messages %}{{ m['content'] + ' ' }}{% endfor %}",
    "no image": "{% for m in messages %}{{ m['role'] }}: {{ m['content'][-1]['text'] }}{{ eos_token }}{% endfor %}",
    "answer first": "{{ messages[-1]['content'][-1]['text'] }}{{ messages[0]['content'][-1]['text'] }}",
    "answer left out": "{{ messages[0]['content'][-1]['text'] }}",
    "unsafe": "{{ messages.__class__.__mro__ }}",
    "a long range": "{% for i in range(1000000000) %}x{% endfor %}",
}
ENDLESS = {
    "loops in loops": "{% for a in range(10**5) %}{% for b in range(10**5) %}x{% endfor %}{% endfor %}",
    "loops that write nothing": "{% for a in range(10**5) %}{% for b in range(10**5) %}{% endfor %}{% endfor %}",
    "a power": "{{ 7 ** (10 ** 9) > 1 }}",
    "a product": "{{ 'a' * 10**12 }}",
    "doubling": "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "a width": "{{ '%2000000000d' % 1 }}",
    "many characters": "{{ 'a' * 2_000_000 }}",
}
FILES = {
    "no processor": (PROCESSOR, None),
    "no tokenizer": ("tokenizer.json", None),
    "damaged weights": ("model.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{"),
    "empty weights": ("model.safetensors", b""),
    "pickled weights": ("model.safetensors", b"PK\x03\x04"),
    "no JSON": (CONFIG, b"{"),
    "a list": (CONFIG, b"[]"),
    "deep JSON": (CONFIG, b"[" * 100_000),
    "bytes": (CONFIG, b"\xff\xfe"),
    "empty tokenizer": ("tokenizer.json", b"{}"),
    "damaged tokenizer": ("tokenizer.json", b"{"),
    "damaged processor": (PROCESSOR, b"["),
    "damaged generation": (GENERATION, b"{"),
    "a list for generation": (GENERATION, b"[]"),
}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of the embedded base."""
    return shutil.copytree(weights.base_folder(), tmp_path / "model")


def loaded_or_told(folder: Path) -> str:
    """The one line of the refusal, or nothing if the folder works."""
    try:
        load_base(str(folder))
    except InputError as error:
        refusal = error
    else:
        return ""
    assert refusal.got
    assert "\n" not in str(refusal)
    return str(refusal)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")  # torch's, of what is then refused
@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_works_or_is_told(folder, name):
    file, change = SETTINGS[name]
    path = folder / file
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    loaded_or_told(folder)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_that_fails_is_told(folder, name):
    path = folder / "chat_template.jinja"
    if TEMPLATES[name] is None:
        path.unlink()
    else:
        path.write_text(TEMPLATES[name])
    assert loaded_or_told(folder)


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_that_does_not_end_is_refused(folder, monkeypatch, name):
    """Before it is rendered in this process, in which nothing would stop it."""
    monkeypatch.setitem(trial._LIMITS, "seconds", 1)
    monkeypatch.setattr(ChatPrompts, "text", lambda *_: pytest.fail("rendered without limits"))
    (folder / "chat_template.jinja").write_text(ENDLESS[name])
    assert "expected a chat template that comes to an end within 1 s" in loaded_or_told(folder)


@pytest.mark.parametrize(
    ("number", "blamed"), [(signal.SIGTERM, False), (signal.SIGINT, False), (signal.SIGKILL, True)]
)
def test_a_signal_that_stops_the_job_says_nothing_of_the_template(folder, tmp_path, monkeypatch, number, blamed):
    """A process that exceeds its time is killed; Ctrl-C and a scheduler reach it too."""
    program, before = tmp_path / "render.py", tmp_path / "rendered_before"
    program.write_text(
        "import os, pathlib, signal\n"
        f"before = pathlib.Path({str(before)!r})\n"
        "if not before.exists():\n"
        "    before.touch()\n"
        f"    signal.signal({number}, signal.SIG_DFL) if {number} != signal.SIGKILL else None\n"
        f"    os.kill(os.getpid(), {number})\n"
    )
    monkeypatch.setattr(trial.render_once, "__file__", str(program))
    trial._renders.cache_clear()
    processor = AutoProcessor.from_pretrained(folder)
    try:
        with pytest.raises(InputError, match="comes to an end") if blamed else nullcontext():
            trial.check_template(processor, "model")
    finally:
        trial._renders.cache_clear()


def test_negative_control_a_template_that_ends_passes(folder):
    processor = load_base(str(folder)).processor
    trial.check_template(processor, "model")
    processor.chat_template = {"default": processor.chat_template, "tool_use": ENDLESS["loops in loops"]}
    trial.check_template(processor, "model")  # the default is what is rendered


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_told(folder, name):
    file, content = FILES[name]
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    line = loaded_or_told(folder)
    assert line or name == "damaged generation"  # which transformers takes for none


def test_fewer_layers_than_weights_are_told(folder):
    """transformers alone would leave the others out, and load another model."""
    config = json.loads((folder / CONFIG).read_text())
    config["text_config"]["num_hidden_layers"] -= 1
    (folder / CONFIG).write_text(json.dumps(config))
    assert "weights of the decoder layers of config.json, got further ones" in loaded_or_told(folder)


@pytest.fixture(params=["one file", "several files"])
def on_the_hub(folder, tmp_path, monkeypatch, request) -> tuple[str, Path]:
    """The id of a copy of the embedded base in the hub's cache, and its folder there."""
    if request.param == "several files":
        tensors = load_file(folder / "model.safetensors")
        names = {name: f"part-{number % 2}.safetensors" for number, name in enumerate(sorted(tensors))}
        for part in set(names.values()):
            save_file({name: tensors[name] for name in names if names[name] == part}, folder / part, {"format": "pt"})
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    cached = tmp_path / "hub" / "models--someone--model"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0123")
    shutil.copytree(folder, cached / "snapshots" / "0123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return "someone/model", cached / "snapshots" / "0123"


def test_a_model_in_the_hubs_cache_needs_the_weights_of_its_configuration_too(on_the_hub, monkeypatch):
    """As many layers as the configuration says would be filled with random numbers, for hours."""
    name, snapshot = on_the_hub
    assert load_base(name).model.num_parameters() > 0
    path = snapshot / CONFIG
    path.write_text(json.dumps(set_to("text_config", "num_hidden_layers", value=400)(json.loads(path.read_text()))))
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(InputError, match=r"someone/model: expected weights for the [\d,]+ parameters of config\.json"):
        load_base(name)


def test_of_a_model_that_is_cached_in_part_nothing_is_concluded(on_the_hub):
    """What is missing would be fetched; without a network, transformers tells it."""
    name, snapshot = on_the_hub
    next(snapshot.glob("*.safetensors")).unlink()
    with pytest.raises(InputError, match=name) as caught:
        load_base(name)
    assert "parameters of config.json" not in str(caught.value)


def of_rows(folder: Path, rows) -> dict[str, torch.Tensor]:
    base = load_base(str(folder))
    return Collator(base.processor, FeatureCache([])).training_batch([rows[0], rows[2], rows[1]]).inputs


@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_a_processor_of_an_older_folder_is_completed(tmp_path, family, rows):
    """Older LLaVA folders name neither the patch nor the features, nor that CLIP has a token for the whole image."""
    folder = FAMILIES[family].save(tmp_path / "model")
    expected = of_rows(folder, rows)
    path = folder / PROCESSOR
    values = json.loads(path.read_text())
    for name in ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens"):
        assert name in values
        del values[name]
    path.write_text(json.dumps(values))
    found = of_rows(folder, rows)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_tokenizer_without_padding_pads_with_the_end(folder, rows):
    """Padding is masked: nothing of a row depends on it."""
    expected = of_rows(folder, rows)
    path = folder / TOKENIZER
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "pad_token"}))
    found = of_rows(folder, rows)
    real = expected["attention_mask"].bool()
    assert not real.all()
    assert torch.equal(found["attention_mask"], expected["attention_mask"])
    assert torch.equal(found["input_ids"][real], expected["input_ids"][real])
    assert set(found["input_ids"][~real].tolist()) == {2}


def test_whisper_with_another_number_of_mel_bins_than_its_extractor_is_told(tmp_path):
    folder = AUDIO_MODELS["whisper"].save(tmp_path / "encoder")
    path = next(path for path in folder.glob("*.json") if "feature_size" in path.read_text())
    values = json.loads(path.read_text())
    part = values.get("feature_extractor", values)
    part["feature_size"] = 8
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"an audio encoder .* got RuntimeError") as caught:
        load_audio_encoder(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_tower_that_does_not_cast_is_given_its_precision(folder, rows, precision, monkeypatch):
    """Some towers put pixels into their first layer as they come."""
    given = []

    def strict(module, pixels, **_options):
        given.append(pixels.dtype)
        assert pixels.dtype == module.patch_embedding.weight.dtype
        return original(module, pixels, **_options)

    base = load_base(str(folder), dtype=precision)
    kind = type(next(m for name, m in base.model.named_modules() if name.endswith("vision_tower.embeddings")))
    original = kind.forward
    monkeypatch.setattr(kind, "forward", strict)
    base = load_base(str(folder), dtype=precision)
    settings = EvaluationSettings()
    assert base_answers(base, rows[:1], settings).samples[0].answer
    assert set(given) == {precision}


def test_a_full_gpu_is_not_taken_for_a_wrong_folder():
    expected = r"model: expected a model that the GPU's memory holds.*smaller base"
    with pytest.raises(InputError, match=expected), as_input_error("model", "something else", "elsewhere"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


def test_a_line_names_the_kind_where_the_text_alone_says_little():
    assert in_short(KeyError("pad")) == "KeyError: 'pad'"
    assert in_short(AssertionError()) == "AssertionError"
    assert in_short(ValueError("one\ntwo")) == "ValueError: one"
    assert in_short(OSError("no such file\nmore")) == "no such file"
