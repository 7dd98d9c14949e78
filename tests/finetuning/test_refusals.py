"""What retention in a trainer refuses, each in one line and before the training."""

from types import SimpleNamespace

import pytest
import torch
from peft import (
    IA3Config,
    LoHaConfig,
    LoraConfig,
    get_peft_model,
)
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
)

from safe_train.errors import InputError
from safe_train.finetuning.rows import RetentionBatch
from safe_train.finetuning.trainer import require_whole_gradients
from safe_train.huggingface import Retention, RetentionCallback
from tests.finetuning.tiny_text import (
    OTHER_ADAPTERS,
    PROTECTED,
    SETTINGS,
    arguments,
    collate,
    retentive,
    rows,
    text_model,
)

HEAD = "lm_head"


ADAPTERS_OF_THE_HEAD = {
    "beside others": LoraConfig(r=4, target_modules=["q_proj", HEAD]),
    "alone": LoraConfig(r=4, target_modules=[HEAD]),
    "saved whole": LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=[HEAD]),
    "DoRA": LoraConfig(r=4, target_modules=[HEAD], use_dora=True),
    "IA3": IA3Config(target_modules=["q_proj", HEAD], feedforward_modules=[]),
    "LoHa": LoHaConfig(r=4, target_modules=[HEAD]),
}


@pytest.mark.parametrize("variant", ["soft_retention", "full_retention"])
@pytest.mark.parametrize("name", ADAPTERS_OF_THE_HEAD)
def test_an_adapter_of_the_head_is_refused_before_the_training(tmp_path, name, variant):
    """Student and teacher share the head: the divergence of what it does would be missing from the loss."""
    model = get_peft_model(text_model(adapter=False), ADAPTERS_OF_THE_HEAD[name])
    with pytest.raises(InputError, match=r"output head: expected a frozen one.*got a trained lm_head.*target_modules"):
        retentive(tmp_path, model, Retention(PROTECTED, variant))


def test_an_adapter_of_the_head_that_transformers_adds_is_refused(tmp_path):
    model = text_model(adapter=False)
    model.add_adapter(LoraConfig(r=4, target_modules=["q_proj", HEAD]))
    with pytest.raises(InputError, match=r"output head: expected a frozen one.*got a trained lm_head"):
        retentive(tmp_path, model, Retention(PROTECTED))


def test_a_trained_head_is_refused_before_the_training(tmp_path):
    model = text_model(adapter=False)
    model.get_output_embeddings().requires_grad_(True)
    with pytest.raises(InputError, match=r"output head: expected a frozen one.*got a trained lm_head\.weight; freeze"):
        retentive(tmp_path, model, Retention(PROTECTED))


def test_a_tied_head_whose_embedding_is_trained_is_refused(tmp_path):
    config = GPT2Config(vocab_size=40, n_positions=16, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2)
    with pytest.raises(InputError, match=r"output head: expected a frozen one.*got a trained transformer\.wte\.weight"):
        retentive(tmp_path, GPT2LMHeadModel(config), Retention(PROTECTED))


def test_a_model_without_a_head_is_refused(tmp_path):
    with pytest.raises(InputError, match="a language model with an output head, got LlamaModel"):
        retentive(tmp_path, text_model(adapter=False).model, Retention(PROTECTED))


def test_an_encoder_and_decoder_is_refused(tmp_path):
    config = T5Config(vocab_size=40, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
    with pytest.raises(InputError, match="without an encoder of text, got T5ForConditionalGeneration"):
        retentive(tmp_path, T5ForConditionalGeneration(config), Retention(PROTECTED))


def test_layers_on_several_devices_are_refused(tmp_path):
    model = text_model(adapter=True)
    model.get_base_model().hf_device_map = {"model": 0, "lm_head": 0}
    retentive(tmp_path, model, Retention(PROTECTED))
    model.get_base_model().hf_device_map = {"model": 0, "lm_head": 1}
    with pytest.raises(InputError, match="all layers on one device, got 0, 1"):
        retentive(tmp_path, model, Retention(PROTECTED))


@pytest.mark.parametrize("variant", ["fisher_retention", "nullspace_retention", "full_retention"])
@pytest.mark.parametrize("name", OTHER_ADAPTERS)
def test_what_acts_on_linear_layers_is_refused_without_any(tmp_path, name, variant):
    model = get_peft_model(text_model(adapter=False), OTHER_ADAPTERS[name]())
    with pytest.raises(InputError, match=rf"{variant} acts on, got none; choose the variant soft_retention"):
        retentive(tmp_path, model, Retention(PROTECTED, variant))


def test_trained_biases_are_refused_where_they_would_be_left_out(tmp_path):
    model = text_model(adapter=True)
    model.get_base_model().model.layers[0].self_attn.q_proj.lora_B.default.bias = torch.nn.Parameter(torch.zeros(32))
    retentive(tmp_path, model, Retention(PROTECTED, "soft_retention"))
    with pytest.raises(InputError, match=r"full_retention acts on, got a trained bias in .*lora_B"):
        retentive(tmp_path, model, Retention(PROTECTED))


def test_a_head_that_scales_its_logits_is_refused(tmp_path):
    model = text_model(adapter=True)
    model.get_base_model().lm_head.register_forward_hook(lambda _module, _inputs, logits: 1.1 * logits)
    with pytest.raises(InputError, match=r"logits that are softcap\(h W \+ b\)"):
        retentive(tmp_path, model, Retention(PROTECTED)).train()


def test_rows_without_labels_are_refused(tmp_path):
    unlabeled = [{"input_ids": row["input_ids"], "labels": [-100] * len(row["labels"])} for row in PROTECTED]
    with pytest.raises(ValueError, match="labels other than -100"):
        retentive(tmp_path, text_model(adapter=True), Retention(unlabeled)).train()
    with pytest.raises(ValueError, match="expected labels, got input_ids"):
        RetentionBatch.of({"input_ids": torch.ones(1, 3)}, torch.device("cpu"))
    with pytest.raises(ValueError, match="at least one, got none"):
        retentive(tmp_path, text_model(adapter=True), Retention([])).train()


@pytest.mark.parametrize(
    "row",
    [
        {"text": "a text"},
        {"messages": [{"role": "user", "content": "a question"}]},
        {"prompt": "a question", "completion": "an answer"},
        "a text",
        {"input_ids": "a text", "labels": "a text"},
    ],
    ids=["text", "conversation", "prompt and completion", "a bare text", "text for ids"],
)
def test_protected_rows_that_are_not_tokenized_are_refused_before_the_training(tmp_path, row):
    refused = r"retention examples, row 0: expected what the trainer's collator takes.*tokenize them"
    with pytest.raises(InputError, match=refused):
        retentive(tmp_path, text_model(adapter=True), Retention([row] * 8))


def test_parts_of_a_data_set_are_refused(tmp_path):
    with pytest.raises(InputError, match="rows by their number, got dict with train; choose one of its parts"):
        retentive(tmp_path, text_model(adapter=True), Retention({"train": PROTECTED}))


def test_a_teacher_cache_is_refused(tmp_path):
    settings = SETTINGS.model_copy(update={"teacher_cache": True})
    with pytest.raises(InputError, match=r"retention\.settings\.teacher_cache: expected false"):
        retentive(tmp_path, text_model(adapter=True), Retention(PROTECTED, settings=settings))


def test_a_stream_of_protected_rows_is_refused_before_the_training(tmp_path):
    class Stream:
        def __iter__(self):
            return iter(PROTECTED)

    with pytest.raises(InputError, match="a data set with a length, got Stream; take a part of it as a list"):
        retentive(tmp_path, text_model(adapter=True), Retention(Stream()))


def test_the_callback_alone_is_refused(tmp_path):
    model = text_model(adapter=True)
    callback = RetentionCallback(Retention(PROTECTED), model, collate)
    trainer = Trainer(
        model=model, args=arguments(tmp_path), train_dataset=rows(64, 1), data_collator=collate, callbacks=[callback]
    )
    with pytest.raises(RuntimeError, match="the callback without the mixin"):
        trainer.train()


@pytest.mark.parametrize(
    "given",
    [
        {"n_gpu": 2},
        {"deepspeed": "plan.json"},
        {"optim": "lomo"},
        {"optim": "galore_adamw_layerwise"},
    ],
)
def test_what_cannot_be_split_is_refused(given):
    alone = {"n_gpu": 1, "deepspeed": None, "optim": "adamw_torch"}
    require_whole_gradients(SimpleNamespace(**alone))
    with pytest.raises(InputError, match=rf"TrainingArguments\.{next(iter(given))}: expected whole gradients in every"):
        require_whole_gradients(SimpleNamespace(**alone | given))


def test_what_accelerate_launch_is_told_is_refused_as_well():
    args = SimpleNamespace(n_gpu=1, deepspeed=None, optim="adamw_torch")
    with pytest.raises(InputError, match=r"TrainingArguments\.deepspeed: expected whole gradients"):
        require_whole_gradients(args, "DEEPSPEED")
