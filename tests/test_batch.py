"""From rows to tensors: answer positions, padding, silence, and templates that do not fit."""

import copy

import numpy as np
import pytest
import soundfile
import torch

from configs.model_configs import EMBEDDED
from safe_train.data.audio_input import SYNTHETIC_SECONDS
from safe_train.data.batch import FeatureCache, RowEncoder
from safe_train.data.rows import Row, vl_rows
from safe_train.data.vqa import load_vqa
from safe_train.data.waveform import load_waveform
from safe_train.errors import InputError
from safe_train.model import load_audio_encoder
from tests.tolerances import LOGITS, relative_error


@pytest.fixture(scope="module")
def audio_encoder():
    return load_audio_encoder(EMBEDDED)


@pytest.fixture
def encoder(embedded_base, audio_encoder):
    return RowEncoder(embedded_base.processor, FeatureCache([audio_encoder]))


@pytest.fixture(scope="module")
def rows(small_data):
    """Questions and answers of different lengths, with and without an image."""
    with_images = vl_rows(load_vqa(small_data, "val"))[:6]
    texts = [
        Row("short", "what?", ("one low bell sound",)),
        Row("long", "is there a red star or a blue circle or what do you hear?", ("yes",)),
        Row("unknown words", "ж?", ("zebra crossing",)),
    ]
    return [*with_images, *texts]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    paths = [folder / f"{index}.wav" for index in range(3)]
    for index, path in enumerate(paths):
        soundfile.write(path, 0.2 * rng.standard_normal(16_000 * (index + 1)), 16_000)
    return paths


def logits_at(base, inputs):
    with torch.no_grad():
        return base.model(**inputs, use_cache=False).logits


def test_answer_positions_predict_exactly_the_answer_tokens(embedded_base, encoder, rows):
    """The labels are the answer and the end of the turn; each stands right behind the position that predicts it."""
    batch = encoder.training_batch(rows)
    tokenizer = embedded_base.processor.tokenizer
    following = batch.inputs["input_ids"][batch.token_rows, batch.token_positions + 1]
    assert torch.equal(following, batch.labels)
    for index, row in enumerate(rows):
        labels = batch.labels[batch.token_rows == index].tolist()
        assert tokenizer.decode(labels[:-1]).strip() == row.answers[0]
        assert labels[-1] == tokenizer.eos_token_id
        positions = batch.token_positions[batch.token_rows == index]
        last_of_prompt = batch.inputs["input_ids"][index, : positions[0] + 1]
        assert tokenizer.decode(last_of_prompt).endswith("assistant:")


def test_logits_at_answer_positions_are_those_of_the_row_alone(embedded_base, encoder, rows):
    """Each row by itself, its prompt and answer joined by hand, in double precision."""
    base = copy.deepcopy(embedded_base.model).double()
    batch = encoder.training_batch(rows)
    inputs = {key: value.double() if value.is_floating_point() else value for key, value in batch.inputs.items()}
    with torch.no_grad():
        batched = base(**inputs, use_cache=False).logits[batch.token_rows, batch.token_positions]
    for index, row in enumerate(rows):
        alone = encoder.prompt_batch([row]).inputs
        answer = batch.labels[batch.token_rows == index][None]
        length = alone["input_ids"].shape[1]
        joined = {
            "input_ids": torch.cat([alone["input_ids"], answer], dim=1),
            "attention_mask": torch.ones(1, length + answer.shape[1], dtype=torch.int64),
        } | ({"pixel_values": alone["pixel_values"].double()} if row.image else {})
        with torch.no_grad():
            expected = base(**joined, use_cache=False).logits[0, length - 1 : -1]
        assert relative_error(batched[batch.token_rows == index], expected) < LOGITS[torch.float64]
        shifted = base(**joined, use_cache=False).logits[0, length - 2 : -2]  # negative control: one position off
        assert relative_error(shifted, expected) > 0.01


def test_rows_are_padded_on_the_right_for_training_and_the_padding_is_masked(embedded_base, encoder, rows):
    inputs = encoder.training_batch(rows).inputs
    pad = embedded_base.processor.tokenizer.pad_token_id
    mask = inputs["attention_mask"]
    assert torch.equal(inputs["input_ids"] == pad, mask == 0)
    assert torch.equal(mask, mask.sort(dim=1, descending=True).values)
    assert (mask == 0).any()


def test_what_stands_in_the_padding_has_no_effect(embedded_base, encoder, rows):
    batch = encoder.training_batch(rows)
    before = logits_at(embedded_base, batch.inputs)[batch.token_rows, batch.token_positions]
    padding = batch.inputs["attention_mask"] == 0
    changed = batch.inputs | {"input_ids": batch.inputs["input_ids"].masked_fill(padding, 17)}
    after = logits_at(embedded_base, changed)[batch.token_rows, batch.token_positions]
    assert torch.equal(before, after)


def test_prompts_are_padded_on_the_left_and_hold_no_answer(embedded_base, encoder, rows):
    batch = encoder.prompt_batch(rows)
    mask, tokenizer = batch.inputs["attention_mask"], embedded_base.processor.tokenizer
    assert torch.equal(mask, mask.sort(dim=1).values)
    assert (mask == 0).any()
    assert not len(batch.labels)
    for row, ids in zip(rows, batch.inputs["input_ids"], strict=True):
        text = tokenizer.decode(ids)
        assert text.endswith("assistant:")
        assert row.question in text
        assert ("<image>" in text) == (row.image is not None)


def test_an_image_becomes_as_many_tokens_as_the_base_expects(embedded_base, encoder, rows):
    ids = encoder.prompt_batch(rows).inputs["input_ids"]
    counts = (ids == embedded_base.model.config.image_token_id).sum(dim=1).tolist()
    assert counts == [4 if row.image else 0 for row in rows]


def test_decoding_drops_special_tokens_and_outer_spaces(embedded_base, encoder):
    ids = embedded_base.processor.tokenizer(" red</s><pad>", add_special_tokens=False, return_tensors="pt").input_ids
    assert encoder.decode(ids) == ["red"]


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages | length }}{% for m in messages %}{{ m.content[-1].text }}{% endfor %}",
        "{% for m in messages %}{{ m.content[-1].text if m.role == 'user' }}{% endfor %}",
    ],
    ids=["a prompt that changes with the answer", "no answer at all"],
)
def test_a_template_whose_prompt_is_no_prefix_is_refused(embedded_base, template):
    processor = copy.copy(embedded_base.processor)
    processor.chat_template = template
    encoder = RowEncoder(processor, FeatureCache([]))
    with pytest.raises(InputError, match="an answer that follows the generation prompt") as caught:
        encoder.training_batch([Row("r", "what?", ("red",))])
    assert "prefix-stable" in str(caught.value)


def test_a_processor_without_a_template_is_refused(embedded_base):
    processor = copy.copy(embedded_base.processor)
    processor.chat_template = None
    with pytest.raises(InputError, match="expected a chat template, got none"):
        RowEncoder(processor, FeatureCache([]))


def test_features_are_those_of_each_row_s_own_clip(encoder, audio_encoder, clips):
    rows = [Row(str(index), "what?", ("x",), audio=clips[index]) for index in (2, 0, 2, 1)]
    (features,) = encoder.features_of(rows)
    for row, values in zip(rows, features.values, strict=True):
        expected = audio_encoder([load_waveform(row.audio, 16_000)]).values[0]
        assert relative_error(values, expected) < LOGITS[torch.float32]
    assert torch.equal(features.values[0], features.values[2])
    assert not torch.equal(features.values[0], features.values[1])


def test_a_row_without_a_clip_hears_silence(encoder, audio_encoder, clips):
    rows = [Row("a", "what?", ("x",), audio=clips[0]), Row("b", "what?", ("x",))]
    (features,) = encoder.prompt_batch(rows).features
    silence = audio_encoder([torch.zeros(int(16_000 * SYNTHETIC_SECONDS))]).values[0]
    assert relative_error(features.values[1], silence) < LOGITS[torch.float32]
    assert features.mask.all()


def test_a_batch_without_any_clip_has_no_features(encoder, rows):
    assert encoder.training_batch(rows).features is None
    assert encoder.training_batch(rows).num_rows == len(rows)


def test_a_clip_is_encoded_once(audio_encoder, clips):
    calls = []

    class Counting:
        sampling_rate = 16_000

        def __call__(self, waveforms):
            calls.append(len(waveforms))
            return audio_encoder(waveforms)

    cache = FeatureCache([Counting()])
    cache.get([clips[0], clips[1], clips[0]])
    cache.get([clips[1], clips[2], None])
    cache.get([None, clips[0]])
    assert sum(calls) == 4  # three clips and silence


@pytest.mark.parametrize(("field", "suffix"), [("image", "png"), ("audio", "wav")])
def test_a_file_that_cannot_be_read_is_told_with_its_name(encoder, tmp_path, field, suffix):
    path = tmp_path / f"broken.{suffix}"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(InputError) as caught:
        encoder.training_batch([Row("r", "what?", ("x",), **{field: path})])
    assert str(path) in str(caught.value)
