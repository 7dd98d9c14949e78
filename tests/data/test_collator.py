"""From rows to tensors: answer positions, padding, silence, and templates that do not fit."""

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from safe_train.audio.input import SYNTHETIC_SECONDS
from safe_train.audio.waveform import load_waveform
from safe_train.configs.model_configs import EMBEDDED
from safe_train.data.collator import Collator, FeatureCache, require_plain_text
from safe_train.data.datasets.vqa import VQA
from safe_train.data.example import DOCUMENT, Example
from safe_train.errors import InputError
from safe_train.evaluation.text_examples import num_bytes
from safe_train.model.audio.encoder import load_audio_encoder
from tests.tolerances import LOGITS, relative_error


@pytest.fixture(scope="module")
def audio_encoder():
    return load_audio_encoder(EMBEDDED)


@pytest.fixture
def encoder(embedded_base, audio_encoder):
    return Collator(embedded_base.processor, FeatureCache([audio_encoder]))


@pytest.fixture(scope="module")
def rows(small_data):
    """Questions and answers of different lengths, with and without an image."""
    with_images = VQA().examples(small_data, "val")[:6]
    texts = [
        Example("short", "what?", ("one low bell sound",)),
        Example("long", "is there a red star or a blue circle or what do you hear?", ("yes",)),
        Example("unknown words", "ж?", ("zebra crossing",)),
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
    encoder = Collator(processor, FeatureCache([]))
    with pytest.raises(InputError, match="an answer that follows the generation prompt") as caught:
        encoder.training_batch([Example("r", "what?", ("red",))])
    assert "prefix-stable" in str(caught.value)


def test_a_processor_without_a_template_is_refused(embedded_base):
    processor = copy.copy(embedded_base.processor)
    processor.chat_template = None
    with pytest.raises(InputError, match="expected a chat template, got none"):
        Collator(processor, FeatureCache([]))


def test_features_are_those_of_each_row_s_own_clip(encoder, audio_encoder, clips):
    rows = [Example(str(index), "what?", ("x",), audio=clips[index]) for index in (2, 0, 2, 1)]
    (features,) = encoder.features_of(rows)
    for row, values in zip(rows, features.values, strict=True):
        expected = audio_encoder([load_waveform(row.audio, 16_000)]).values[0]
        assert relative_error(values, expected) < LOGITS[torch.float32]
    assert torch.equal(features.values[0], features.values[2])
    assert not torch.equal(features.values[0], features.values[1])


def test_a_row_without_a_clip_hears_silence(encoder, audio_encoder, clips):
    rows = [Example("a", "what?", ("x",), audio=clips[0]), Example("b", "what?", ("x",))]
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
        window = 10 * sampling_rate
        model = audio_encoder.model
        prepare = staticmethod(audio_encoder.prepare)

        def encode(self, prepared):
            calls.append(len(prepared))
            return audio_encoder.encode(prepared)

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
        encoder.training_batch([Example("r", "what?", ("x",), **{field: path})])
    assert str(path) in str(caught.value)


DOCUMENTS = [
    Example("d", "", ("a red star, and one blue circle; a zebra!",), kind=DOCUMENT, cluster="d"),
    Example("e", "", ("ж: two words",), kind=DOCUMENT, cluster="e"),
]


def test_every_token_of_a_document_is_learned_and_predicted_by_the_one_before(embedded_base, encoder, rows):
    """In a batch with questions, some about images: their positions are as ever."""
    batch = encoder.training_batch([rows[0], *DOCUMENTS, rows[-2]])
    tokenizer = embedded_base.processor.tokenizer
    ids = batch.inputs["input_ids"]
    assert torch.equal(ids[batch.token_rows, batch.token_positions + 1], batch.labels)
    for index, row in enumerate(DOCUMENTS, start=1):
        own = batch.token_rows == index
        expected = tokenizer(row.answers[0], add_special_tokens=False).input_ids
        assert batch.labels[own].tolist() == expected
        assert batch.token_positions[own].tolist() == list(range(len(expected)))
        assert ids[index, 0] == tokenizer.bos_token_id
        assert int(batch.inputs["attention_mask"][index].sum()) == 1 + len(expected)
    alone = encoder.training_batch([rows[0]])
    assert torch.equal(batch.labels[batch.token_rows == 0], alone.labels)


def test_a_protected_document_brings_as_many_tokens_as_the_setting_says(embedded_base, audio_encoder, encoder, rows):
    """Others at each turn, the same on any machine; answers bring all of theirs."""
    limited = Collator(embedded_base.processor, FeatureCache([audio_encoder]), document_tokens=3)
    heard = [
        replace(DOCUMENTS[0], audio=Path(folder) / f"{name}.wav") for folder, name in (("a", 1), ("b", 1), ("b", 2))
    ]
    drawn = [limited.retained_tokens(row, 40) for row in (*heard, DOCUMENTS[0])]
    assert all(len(set(places)) == 3 and list(places) == sorted(places) for places in drawn)
    assert drawn[0] == drawn[1] != drawn[2]
    turns = [replace(DOCUMENTS[0], audio=Path(f"{turn}.wav")) for turn in range(200)]
    assert {place for row in turns for place in limited.retained_tokens(row, 40)} == set(range(40))
    batch = limited.training_batch([rows[0], DOCUMENTS[0]], protected=True)
    whole = encoder.training_batch([rows[0], DOCUMENTS[0]])
    assert torch.equal(batch.inputs["input_ids"], whole.inputs["input_ids"])
    assert torch.equal(whole.inputs["input_ids"][batch.token_rows, batch.token_positions + 1], batch.labels)
    answer = int((whole.token_rows == 0).sum())
    assert torch.bincount(batch.token_rows).tolist() == [answer, 3]
    assert len(limited.training_batch([rows[0], DOCUMENTS[0]]).labels) == len(whole.labels)  # evaluation reads all


def test_bits_of_documents_in_a_batch_are_those_of_each_alone(embedded_base, encoder, rows):
    """Bits a byte, from the batch's columns and from the definition: -log2 p of the text, over its UTF-8 bytes."""
    base = embedded_base
    batch = encoder.training_batch([*DOCUMENTS, rows[0]])
    assert tuple(map(num_bytes, DOCUMENTS[:2])) == (
        len("a red star, and one blue circle; a zebra!"),
        len("ж: two words") + 1,
    )
    logits = logits_at(base, batch.inputs)[batch.token_rows, batch.token_positions].double()
    nats = torch.nn.functional.cross_entropy(logits, batch.labels, reduction="none")
    for index, row in enumerate(DOCUMENTS):
        tokenizer = base.processor.tokenizer
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(row.answers[0], add_special_tokens=False).input_ids]])
        probabilities = logits_at(base, {"input_ids": ids})[0, :-1].double().log_softmax(dim=-1)
        expected = -probabilities.gather(1, ids[0, 1:, None]).sum()
        found = nats[batch.token_rows == index].sum()
        assert relative_error(found, expected) < LOGITS[torch.float32]


def test_nothing_can_be_asked_before_a_document(encoder):
    with pytest.raises(ValueError, match="examples must be questions, got the document d"):
        encoder.prompt_batch(DOCUMENTS)


@pytest.mark.parametrize(
    "row",
    [
        Example("r", "what is <image>?", ("x",)),
        Example("r", "what?", ("an <image>",)),
        Example("r", "", ("an <image> of it",), kind=DOCUMENT),
    ],
)
def test_a_placeholder_in_a_text_is_refused_in_one_line(encoder, row):
    """It would be taken for an image that is not there."""
    with pytest.raises(
        InputError, match=r"example r: expected text without the processor's placeholders, got '<image>'"
    ):
        encoder.training_batch([row])
    with pytest.raises(
        InputError, match=r"example r: expected text without the processor's placeholders, got '<image>'"
    ):
        require_plain_text(encoder.processor, [Example("q", "what?", ("x",)), row])


@pytest.mark.parametrize("place", ["image_token", "video_token", "audio_token"])
def test_placeholders_are_those_of_the_processor(place):
    """Qwen2-VL's, say, of which no list's reader knows; ``<image>`` is none of its."""
    processor = SimpleNamespace(**{place: "<|image_pad|>"})
    require_plain_text(processor, [Example("a", "an <image>?", ("x", "a later reference <|image_pad|>"))])
    with pytest.raises(InputError, match=r"example b: .*, got '<\|image_pad\|>'"):
        require_plain_text(processor, [Example("b", "an <|image_pad|>?", ("x",))])


def test_a_document_longer_than_the_base_is_refused(embedded_base, audio_encoder):
    length = 1 + len(embedded_base.processor.tokenizer(DOCUMENTS[0].answers[0], add_special_tokens=False).input_ids)
    for most, refused in ((length, False), (length - 1, True)):
        encoder = Collator(embedded_base.processor, FeatureCache([audio_encoder]), max_positions=most)
        if not refused:
            assert len(encoder.training_batch(DOCUMENTS[:1]).labels) == length - 1
            continue
        with pytest.raises(InputError, match=f"example d: expected a document of at most {most} tokens"):
            encoder.training_batch(DOCUMENTS[:1])


def test_a_question_of_the_type_document_is_a_question(encoder):
    batch = encoder.training_batch([Example("q", "what?", ("red",), kind=DOCUMENT)])
    plain = encoder.training_batch([Example("q", "what?", ("red",))])
    assert torch.equal(batch.inputs["input_ids"], plain.inputs["input_ids"])
