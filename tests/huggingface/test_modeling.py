"""The Hugging Face model is SAFE: its bits, an adapter alone on disk and on the hub, the base without audio."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    AutoTokenizer,
    BitsAndBytesConfig,
)

from safe_train.errors import InputError
from safe_train.huggingface import SafeConfig, SafeForConditionalGeneration, SafeProcessor
from tests.huggingface.made import conversation, figures_of, loud_model
from tests.tolerances import LOGITS

FILES = {"README.md", "config.json", "model.safetensors", "processor_config.json"}
GREEDY = {"max_new_tokens": 8, "do_sample": False}


def prompts(processor, rows, audio=True):
    """Inputs of rows; `audio` may differ from row to row."""
    attach = audio if isinstance(audio, list) else [audio] * len(rows)
    chats = [conversation(row, audio=flag) for row, flag in zip(rows, attach, strict=True)]
    return processor.apply_chat_template(chats, add_generation_prompt=True, tokenize=True, return_dict=True)


def test_only_the_adapter_is_saved(folder, plain):
    assert {path.name for path in folder.iterdir()} == FILES
    stored = load_file(folder / "model.safetensors")
    assert stored.keys() == plain.trainable_parameters().keys()
    assert all(torch.equal(stored[name], p) for name, p in plain.trainable_parameters().items())
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["base_model"], config["retention"]) == (
        "safe", "embedded", figures_of(plain)
    )  # fmt: skip


def test_the_auto_classes_know_it(folder, heard, loaded, processor):
    assert type(AutoConfig.from_pretrained(folder)) is SafeConfig
    assert type(AutoProcessor.from_pretrained(folder)) is SafeProcessor
    inputs = prompts(processor, heard[:2])
    with torch.no_grad():
        expected = loaded(**inputs).logits
        for auto in (AutoModelForImageTextToText, AutoModelForMultimodalLM):
            model = auto.from_pretrained(folder)
            assert type(model) is SafeForConditionalGeneration
            assert torch.equal(model(**inputs).logits, expected)


def test_rows_without_audio_are_the_base(loaded, processor, heard, embedded_base):
    inputs = prompts(processor, heard[:4], [True, False, True, False])
    text_and_image = {name: value for name, value in inputs.items() if not name.startswith("audio")}
    with torch.no_grad():
        mixed, base = loaded(**inputs).logits, embedded_base.model(**text_and_image).logits
        assert torch.equal(loaded(**text_and_image).logits, base)
    assert [torch.equal(*row) for row in zip(mixed, base, strict=True)] == [False, True, False, True]


def test_text_alone_is_the_base_and_with_a_clip_is_heard(loaded, processor, heard, embedded_base):
    chat = [conversation(replace(heard[0], image=None), audio=audio) for audio in (False, True)]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
    silent, loud = (processor.apply_chat_template([messages], **options) for messages in chat)
    document = processor(text=["the circle is red and the square is blue"], return_tensors="pt")
    with torch.no_grad():
        for inputs in (silent, document):
            assert not {"pixel_values", "audio_values"} & inputs.keys()
            assert torch.equal(loaded(**inputs).logits, embedded_base.model(**inputs).logits)
        assert torch.equal(loud["input_ids"], silent["input_ids"])
        assert not torch.equal(loaded(**loud).logits, loaded(**silent).logits)


def test_a_shut_gate_is_the_base(folder, processor, heard, embedded_base):
    config = SafeConfig.from_pretrained(folder)
    config.gate = 0.0
    model = SafeForConditionalGeneration.from_pretrained(folder, config=config)
    inputs = prompts(processor, heard[:2])
    text_and_image = {name: value for name, value in inputs.items() if not name.startswith("audio")}
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, embedded_base.model(**text_and_image).logits)


def test_an_answer_ends_where_the_prompts_end_one(loaded, processor, heard, monkeypatch):
    """Whatever else the base's own settings call an end."""
    inputs = prompts(processor, heard[:6])
    whole = loaded.generate(**inputs, **GREEDY)
    end = loaded.vision_language_model.generation_config.eos_token_id
    assert (whole[:, inputs["input_ids"].shape[1] : -1] == end).any()
    monkeypatch.setattr(loaded.vision_language_model.generation_config, "eos_token_id", 1)
    assert torch.equal(loaded.generate(**inputs, **GREEDY), whole)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"use_cache": False}], ids=["cache", "beams", "no cache"])
def test_generate_is_that_of_safe(loaded, plain, encoder, processor, heard, options):
    inputs = prompts(processor, heard[:6])
    prompt = inputs["input_ids"].shape[1]
    generated = loaded.generate(**inputs, **GREEDY, **options)
    assert torch.equal(generated[:, :prompt], inputs["input_ids"])
    expected = plain.generate(
        encoder.prompt_batch(heard[:6]).inputs, encoder.features_of(heard[:6]), **GREEDY | options
    )
    assert torch.equal(generated[:, prompt:], expected)
    silent = loaded.generate(**prompts(processor, heard[:6], audio=False), **GREEDY, **options)
    assert not torch.equal(silent[:, prompt:], expected[:, : silent.shape[1] - prompt])


def test_a_prompt_is_answered_alike_alone_and_left_padded(loaded, processor, heard):
    rows = sorted(heard[:12], key=lambda row: len(row.question))
    rows = [rows[0], rows[-1]]
    alone = [loaded.generate(**prompts(processor, [row]), **GREEDY) for row in rows]
    batch = prompts(processor, rows)
    assert (batch["attention_mask"] == 0).any()
    answers = processor.batch_decode(
        loaded.generate(**batch, **GREEDY)[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
    )
    for text, row, single in zip(answers, rows, alone, strict=True):
        own = single[0, prompts(processor, [row])["input_ids"].shape[1] :]
        assert text == processor.decode(own, skip_special_tokens=True)


def test_only_the_adapter_is_trained_and_the_base_stays_in_evaluation_mode(processor, heard):
    model = SafeForConditionalGeneration.from_safe_model(loud_model()).train()
    chat = [conversation(heard[0], answer=heard[0].answers[0])]
    inputs = processor.apply_chat_template(chat, tokenize=True, return_dict=True)
    labels = inputs["input_ids"].clone()
    labels[:, :-2] = -100
    output = model(**inputs, labels=labels)
    expected = F.cross_entropy(output.logits[0, -3:-1], labels[0, -2:])
    assert torch.allclose(output.loss, expected, rtol=LOGITS[torch.float32])
    output.loss.backward()
    trained = {id(p) for p in model.safe_model.trainable_parameters().values()}
    assert {id(p) for p in model.parameters() if p.grad is not None} == trained
    modes = {name: part.training for name, part in model.named_children()}
    assert modes == {"projectors": True, "fusions": True, "audio_encoders": False, "vision_language_model": False}


def test_lora_is_saved_and_comes_back(tmp_path, make_safe_model, processor, heard):
    model = SafeForConditionalGeneration.from_safe_model(make_safe_model(output_scale=0.3, **{"model.lora_rank": "2"}))
    with torch.no_grad():
        for parameter in model.lora.parameters():
            parameter.normal_(std=0.2)
    model.save_pretrained(tmp_path)
    inputs = prompts(processor, heard[:2])
    with torch.no_grad():
        again = SafeForConditionalGeneration.from_pretrained(tmp_path)
        assert torch.equal(again(**inputs).logits, model(**inputs).logits)
        text_and_image = {name: value for name, value in inputs.items() if not name.startswith("audio")}
        assert not torch.equal(again(**inputs).logits, again(**text_and_image).logits)


def test_a_base_in_half_precision_keeps_the_adapter_and_the_clips_whole(folder, processor, heard):
    model = SafeForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16, device_map="cpu")
    assert model.vision_language_model.dtype == torch.bfloat16
    assert model.dtype == torch.float32  # pipelines cast what the processor gives to this
    assert {p.dtype for p in model.safe_model.trainable_parameters().values()} == {torch.float32}
    assert model(**prompts(processor, heard[:2])).logits.isfinite().all()


def test_weights_of_another_adapter_are_refused(folder, tmp_path):
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    tensors = load_file(damaged / "model.safetensors")
    name = min(tensors)
    save_file(tensors | {name: torch.zeros(2, 2)}, damaged / "model.safetensors")
    with pytest.raises(InputError, match=rf"{name}: \(2, 2\) in place of"):
        SafeForConditionalGeneration.from_pretrained(damaged)


def test_pickled_weights_are_not_read(folder, tmp_path):
    pickled = shutil.copytree(folder, tmp_path / "pickled")
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"model\.safetensors"):
        SafeForConditionalGeneration.from_pretrained(pickled)


def test_options_that_would_be_ignored_are_refused(folder):
    with pytest.raises(TypeError, match="load_in_8bit"):
        SafeForConditionalGeneration.from_pretrained(folder, load_in_8bit=True)
    with pytest.raises(InputError, match="expected one device"):
        SafeForConditionalGeneration.from_pretrained(folder, device_map={"model": "cpu", "lm_head": "meta"})


@pytest.mark.parametrize(
    "options",
    [
        {"device_map": "auto"}, {"device_map": "balanced"}, {"device_map": "sequential"}, {"device_map": {"": "cpu"}},
        {"device_map": "cpu"}, {"device_map": torch.device("cpu")}, {"low_cpu_mem_usage": True},
        {"attn_implementation": "sdpa"},
    ],
    ids=str,
)  # fmt: skip
def test_what_loading_scripts_commonly_say_is_taken(folder, loaded, processor, heard, options, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    model = SafeForConditionalGeneration.from_pretrained(folder, **options)
    assert model.device == torch.device("cpu")
    inputs = prompts(processor, heard[:2])
    assert torch.equal(model(**inputs).logits, loaded(**inputs).logits)


def test_the_attention_is_the_one_that_is_asked_for(folder):
    model = SafeForConditionalGeneration.from_pretrained(folder, attn_implementation="eager")
    assert model.safe_model.base.text_config._attn_implementation == "eager"


def test_a_quantized_base_needs_a_gpu(folder, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match="a CUDA device for quantization_config, got cpu"):
        SafeForConditionalGeneration.from_pretrained(folder, quantization_config=BitsAndBytesConfig(load_in_8bit=True))


def test_other_auto_classes_find_it(folder, processor, loaded, heard):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "user: what is it? assistant:"
    assert tokenizer(text).input_ids == processor.tokenizer(text).input_ids
    model = AutoModel.from_pretrained(folder)
    inputs = prompts(processor, heard[:2])
    assert torch.equal(model(**inputs).logits, loaded(**inputs).logits)


def test_a_damaged_adapter_is_told(folder, tmp_path):
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match=r"model\.safetensors: expected whole safetensors"):
        SafeForConditionalGeneration.from_pretrained(damaged)


def test_an_adapter_without_its_shape_is_refused():
    with pytest.raises(InputError, match=r"SafeConfig\.adapter.*fusion_layers"):
        SafeForConditionalGeneration(SafeConfig())


@pytest.fixture
def hub(monkeypatch):
    """What goes up to a hub that nobody reaches: repositories, and each upload's files with their contents."""
    uploads, repositories = {}, []

    class Repository:
        def __init__(self, repo_id):
            self.repo_id = f"someone/{repo_id}"

    def create_repo(_api, repo_id, **_options):
        repositories.append(repo_id)
        return Repository(repo_id)

    def upload_folder(_api, *, repo_id, folder_path, **_options):
        from pathlib import Path

        uploads[repo_id] = {path.name: path.read_bytes() for path in Path(folder_path).rglob("*") if path.is_file()}
        return "address of the commit"

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", create_repo)
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", upload_folder)
    return uploads


def test_what_goes_to_the_hub_is_the_adapter_with_its_card(hub, loaded, folder, plain):
    assert loaded.push_to_hub("ears") == "address of the commit"
    files = hub["someone/ears"]
    assert files.keys() == FILES
    assert files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    base = sum(p.numel() * p.element_size() for p in plain.base.model.parameters())
    assert sum(map(len, files.values())) < base / 2
    card = files["README.md"].decode()
    assert 'from_pretrained("someone/ears")' in card
    assert "-2.5 [-5.0, +0.0]" in card
