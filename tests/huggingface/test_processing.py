"""The processor gives what Stage A trains on, whatever form a clip comes in."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torchaudio.functional import resample
from transformers import BatchFeature, WhisperFeatureExtractor

from safe_train.audio.waveform import load_waveform
from safe_train.errors import InputError
from safe_train.huggingface import SafeConfig, SafeProcessor
from safe_train.model.audio.feature_readout import seconds_of
from tests.huggingface.made import conversation

OPTIONS = {"tokenize": True, "return_dict": True}
CHAT = [{"role": "user", "content": [{"type": "text", "text": "what color is the circle?"}]}]


def with_audio(clip):
    return [{"role": "user", "content": [{"type": "audio", "audio": clip}, *CHAT[0]["content"]]}]


@pytest.fixture
def clip(tmp_path):
    """A second of stereo noise at 22,050 Hz: the file and its samples [channels, samples]."""
    samples = 0.1 * np.random.default_rng(0).standard_normal((22_050, 2)).astype(np.float32)
    soundfile.write(tmp_path / "clip.wav", samples, 22_050, subtype="FLOAT")
    return tmp_path / "clip.wav", samples.T


@pytest.mark.parametrize("audio", [True, False], ids=["audio", "no audio"])
def test_fifty_questions_are_answered_as_stage_a_answers_them(loaded, plain, encoder, processor, heard, audio):
    rows = (heard * 2)[:50]
    answers = {"huggingface": [], "stage a": []}
    for start in range(0, len(rows), 10):
        batch = rows[start : start + 10]
        chats = [conversation(row, audio=audio) for row in batch]
        inputs = processor.apply_chat_template(chats, add_generation_prompt=True, **OPTIONS)
        expected = encoder.prompt_batch(batch)
        for name, value in expected.inputs.items():
            assert torch.equal(inputs[name], value), name
        assert ("audio_values" in inputs) == audio
        if audio:
            found = loaded.audio_features(inputs["audio_values"], inputs["audio_lengths"])
            for own, theirs in zip(found, expected.features, strict=True):
                assert torch.equal(own.values, theirs.values)
                assert torch.equal(own.mask, theirs.mask)
        options = {"max_new_tokens": 8, "do_sample": False}
        generated = loaded.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]
        answers["huggingface"] += processor.batch_decode(generated, skip_special_tokens=True)
        features = expected.features if audio else None
        answers["stage a"] += encoder.processor.batch_decode(
            plain.generate(expected.inputs, features, **options), skip_special_tokens=True
        )
    assert answers["huggingface"] == answers["stage a"]
    assert len(set(answers["stage a"])) > 1


def test_a_conversation_with_its_answer_has_the_tokens_of_training(processor, encoder, heard):
    chats = [conversation(row, answer=row.answers[0]) for row in heard[:8]]
    inputs = processor.apply_chat_template(chats, **OPTIONS)
    expected = encoder.training_batch(heard[:8]).inputs
    assert torch.equal(inputs["input_ids"], expected["input_ids"])  # padded on the right
    assert torch.equal(inputs["attention_mask"], expected["attention_mask"])


def test_several_turns_are_encoded_by_the_bases_template(processor, heard, clip):
    row = heard[0]
    chat = [*conversation(row, answer="a star"), {"role": "user", "content": "and where is it?"}]
    inputs = processor.apply_chat_template(chat, add_generation_prompt=True, **OPTIONS)
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    assert "a star" in text
    assert text.endswith("and where is it? assistant:")
    with Image.open(row.image) as image:
        expected = processor.base_processor(
            text=[text], images=[image.convert("RGB")], add_special_tokens=False, return_tensors="pt"
        )
    assert torch.equal(inputs["input_ids"], expected["input_ids"])
    assert torch.equal(inputs["pixel_values"], expected["pixel_values"])
    assert inputs["audio_lengths"].tolist() == [[32_000]]
    # Beside a chat of one question, both are padded to one length.
    both = processor.apply_chat_template([chat, CHAT], add_generation_prompt=True, **OPTIONS)
    alone = processor.apply_chat_template(CHAT, add_generation_prompt=True, **OPTIONS)["input_ids"][0]
    assert torch.equal(both["input_ids"][0], inputs["input_ids"][0])
    assert torch.equal(both["input_ids"][1, -len(alone) :], alone)
    assert both["audio_lengths"].tolist() == [[32_000], [0]]


def test_a_clip_adds_nothing_to_the_text(processor, clip):
    texts = [processor.apply_chat_template(chat, add_generation_prompt=True) for chat in (CHAT, with_audio(clip[0]))]
    assert texts[0] == texts[1]


def test_a_file_and_its_samples_are_the_same_clip(processor, clip):
    path, samples = clip

    class Decoder:
        """As newer versions of datasets give it."""

        def get_all_samples(self):
            return type("Samples", (), {"data": torch.from_numpy(samples), "sample_rate": 22_050})

    forms = [str(path), path, {"array": samples, "sampling_rate": 22_050}, Decoder()]
    found = [processor.apply_chat_template(with_audio(form), **OPTIONS)["audio_values"] for form in forms]
    expected = resample(torch.from_numpy(samples).mean(dim=0), 22_050, 16_000)
    assert all(torch.equal(values[0, 0], expected) for values in found)
    wrong = processor.apply_chat_template(with_audio({"array": samples, "sampling_rate": 16_000}), **OPTIONS)
    assert wrong["audio_values"].shape != found[0].shape  # a wrong rate is another clip


@pytest.mark.parametrize(("subtype", "kind"), [("PCM_U8", "uint8"), ("PCM_16", "int16"), ("PCM_32", "int32")])
def test_integers_are_samples_as_a_file_holds_them(processor, tmp_path, subtype, kind):
    """soundfile reads the same file as floats; uint8 as SciPy gives it, around 128."""
    samples = np.clip(0.4 * np.random.default_rng(0).standard_normal(16_000), -1, 1)
    soundfile.write(tmp_path / "clip.wav", samples, 16_000, subtype=subtype)
    floats, _ = soundfile.read(tmp_path / "clip.wav", dtype="float32")
    integers, _ = soundfile.read(tmp_path / "clip.wav", dtype="int16" if kind == "uint8" else kind)
    if kind == "uint8":
        integers = (integers // 256 + 128).astype(np.uint8)
    array = {"array": integers, "sampling_rate": 16_000}
    found = processor.apply_chat_template(with_audio(array), **OPTIONS)["audio_values"]
    assert integers.dtype == kind
    assert torch.equal(found[0, 0], torch.from_numpy(floats))


def test_bare_arrays_take_their_rate_from_the_call(processor, clip):
    mono = clip[1].mean(axis=0)
    encoded = processor(text="what?", audio=mono, sampling_rate=22_050, return_tensors="pt")
    assert isinstance(encoded, BatchFeature)
    assert torch.equal(encoded["audio_values"][0, 0], resample(torch.from_numpy(mono), 22_050, 16_000))


def test_each_encoder_hears_at_its_own_rate(processor, clip):
    extractors = [type("Extractor", (), {"sampling_rate": rate}) for rate in (16_000, 48_000)]
    two = SafeProcessor(processor.base_processor, extractors, SafeConfig())
    encoded = two(text=["a", "b"], audio=[None, clip[0]], padding=True, return_tensors="pt")
    assert encoded["audio_values"].shape == (2, 2, 48_000)
    assert encoded["audio_lengths"].tolist() == [[0, 0], [16_000, 48_000]]


def hearing(processor, rate, seconds):
    """The processor with an encoder of that rate that hears so many seconds."""
    extractor = type("Extractor", (), {"sampling_rate": rate})
    return SafeProcessor(processor.base_processor, [extractor], SafeConfig(audio_seconds=seconds and [seconds]))


@pytest.mark.parametrize("source_rate", [16_000, 22_050, 44_099, 8_000])
@pytest.mark.parametrize("kind", ["float32", "int16"])
def test_of_a_long_array_no_more_is_looked_at_than_is_heard(processor, source_rate, kind):
    """The filter reaches a few samples behind the window; what follows may be anything."""
    samples = 0.1 * np.random.default_rng(0).standard_normal((2, 5 * source_rate))
    samples = samples.astype("float32") if kind == "float32" else (samples * 2**15).astype("int16")
    whole = hearing(processor, 16_000, None)(text="what?", audio=samples, sampling_rate=source_rate)
    if kind == "float32":
        samples[:, source_rate + 64 :] = np.nan
    found = hearing(processor, 16_000, 1.0)(text="what?", audio=samples, sampling_rate=source_rate)
    assert found["audio_lengths"].tolist() == [[16_000]]
    assert whole["audio_lengths"].tolist() == [[80_000]]
    torch.testing.assert_close(found["audio_values"], whole["audio_values"][..., :16_000], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("seconds", "window"), [(1.5, 24_000), (30.0, 64_000), (None, 64_000)])
def test_an_extractor_with_a_window_of_its_own_is_heard_up_to_the_shorter(processor, seconds, window):
    extractor = WhisperFeatureExtractor(feature_size=16, chunk_length=4)
    config = SafeConfig(audio_seconds=seconds and [seconds])
    assert SafeProcessor(processor.base_processor, [extractor], config).hearings == [(16_000, window)]


@pytest.mark.parametrize(("windows", "seconds", "window"), [(2, None, 128_000), (3, 9.0, 144_000), (None, 9.0, 64_000)])
def test_a_long_clip_is_heard_in_several_windows(processor, windows, seconds, window):
    extractor = WhisperFeatureExtractor(feature_size=16, chunk_length=4)
    config = SafeConfig(audio_seconds=seconds and [seconds], audio_windows=windows)
    assert SafeProcessor(processor.base_processor, [extractor], config).hearings == [(16_000, window)]


def test_of_a_long_file_what_is_heard_is_what_stage_a_hears(processor, tmp_path):
    path = tmp_path / "long.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(5 * 22_050), 22_050)
    found = hearing(processor, 16_000, 1.5)(text="what?", audio=str(path))["audio_values"]
    assert torch.equal(found[0, 0], load_waveform(path, 16_000, 24_000))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros(100, dtype=np.float32), "expected a sampling rate"),
        ({"array": np.zeros(100, dtype=np.int64), "sampling_rate": 16_000}, r"floats, int16.* got torch\.int64"),
        ({"array": np.zeros(100, dtype=bool), "sampling_rate": 16_000}, r"floats, int16.* got torch\.bool"),
        ({"array": np.zeros(0, dtype=np.float32), "sampling_rate": 16_000}, r"floats, .* got torch\.float32 \[0\]"),
        ({"array": np.zeros(0, dtype=np.int16), "sampling_rate": 16_000}, r"floats, .* got torch\.float64 \[0\]"),
        ({"array": np.full(9, np.nan, dtype=np.float32), "sampling_rate": 16_000}, "finite samples"),
        ({"array": np.zeros(399, dtype=np.float32), "sampling_rate": 16_000}, r"at least 0\.025 s, got 399 samples"),
        ({"array": np.zeros(999, dtype=np.float32), "sampling_rate": 0}, "at least 40 Hz, got 0 Hz"),
        ({"sampling_rate": 16_000}, "an array and its sampling_rate"),
        ("https://example.org/clip.wav", "fetch it first"),
        ("missing.wav", "no such file"),
    ],
)
def test_what_cannot_be_heard_is_one_line(processor, wrong, message):
    with pytest.raises(InputError, match=message) as caught:
        processor.apply_chat_template(with_audio(wrong), **OPTIONS)
    assert "\n" not in str(caught.value)


def test_two_clips_in_a_conversation_are_refused(processor, clip):
    with pytest.raises(InputError, match="at most one audio clip, got 2"):
        processor.apply_chat_template(with_audio(clip[0]) + with_audio(clip[0]), **OPTIONS)


def test_content_of_another_kind_is_refused(processor):
    video = [{"role": "user", "content": [{"type": "video", "video": "film.mp4"}]}]
    with pytest.raises(InputError, match="expected text, image or audio, got 'video'"):
        processor.apply_chat_template(video, **OPTIONS)
    with pytest.raises(InputError, match="expected audio or url or path"):
        processor.apply_chat_template([{"role": "user", "content": [{"type": "audio"}]}], **OPTIONS)


def test_as_many_clips_as_texts(processor, clip):
    with pytest.raises(ValueError, match="one clip or None for each of 2 texts, got 1"):
        processor(text=["a", "b"], audio=[clip[0]])


def test_an_image_may_be_a_file_or_a_picture(processor, tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8))
    picture.save(tmp_path / "picture.png")
    chats = [
        [{"role": "user", "content": [{"type": "image", key: image}, *CHAT[0]["content"]]}]
        for key, image in (
            ("image", picture),
            ("path", tmp_path / "picture.png"),
            ("url", str(tmp_path / "picture.png")),
        )
    ]
    found = [processor.apply_chat_template(chat, **OPTIONS)["pixel_values"] for chat in chats]
    assert all(torch.equal(values, found[0]) for values in found)


def test_it_comes_back_from_its_file(processor, tmp_path, heard):
    (path,) = processor.save_pretrained(tmp_path)
    assert path == str(tmp_path / "processor_config.json")
    again = SafeProcessor.from_pretrained(tmp_path)
    assert again.sampling_rates == processor.sampling_rates == [16_000]
    chat = conversation(heard[0])
    first, second = (p.apply_chat_template(chat, add_generation_prompt=True, **OPTIONS) for p in (processor, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert "embedded" in repr(again)


@pytest.mark.parametrize("window", [8_000, 1_001, 16_016, 161_001])
def test_what_comes_back_hears_as_much_as_what_was_saved(processor, tmp_path, window):
    """Of some windows, samples / rate * rate is less than the samples in floating point."""
    seconds = seconds_of(window, 16_000)
    hearing(processor, 16_000, seconds).save_pretrained(tmp_path)
    again = SafeProcessor.from_pretrained(tmp_path)
    assert hearing(processor, 16_000, again.config.audio_seconds[0]).hearings == [(16_000, window)]
    assert seconds == pytest.approx(window / 16_000, rel=1e-15)


def test_the_model_and_its_saved_processor_hear_the_same_window(loaded, folder):
    (encoder,) = loaded.audio_encoders
    for found in (loaded.processor, SafeProcessor.from_pretrained(folder)):
        assert found.hearings == [(encoder.sampling_rate, encoder.window)]


def test_a_processor_of_an_earlier_version_is_read(processor, tmp_path):
    (path,) = map(Path, processor.save_pretrained(tmp_path))
    values = json.loads(path.read_text())
    assert values.pop("audio_seconds") == [2.0]
    path.write_text(json.dumps(values))
    again = SafeProcessor.from_pretrained(tmp_path)
    assert again.config.audio_seconds is None
    assert again.hearings == processor.hearings  # the embedded encoder's own extractor says it


@pytest.mark.parametrize("seconds", ['"x"', "[1, 2]", "[0]", "[null]", "3", "[NaN]", "[Infinity]", '["1"]'])
def test_seconds_that_are_none_are_refused(processor, tmp_path, seconds):
    (path,) = map(Path, processor.save_pretrained(tmp_path))
    values = json.loads(path.read_text()) | {"audio_seconds": "HERE"}
    path.write_text(json.dumps(values).replace('"HERE"', seconds))
    with pytest.raises(InputError, match="a processor of SAFE") as caught:
        SafeProcessor.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("windows", ["0", "-1", '"x"', "1.5", "true", "[1]", "100000000"])
def test_windows_that_are_none_are_refused(processor, tmp_path, windows):
    (path,) = map(Path, processor.save_pretrained(tmp_path))
    values = json.loads(path.read_text()) | {"audio_windows": "HERE"}
    path.write_text(json.dumps(values).replace('"HERE"', windows))
    with pytest.raises(InputError, match="a processor of SAFE"):
        SafeProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize("text", ["{}", "no JSON", '{"processor_class": "SafeProcessor"}'])
def test_a_processor_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "processor_config.json").write_text(text)
    with pytest.raises(InputError, match="a processor of SAFE"):
        SafeProcessor.from_pretrained(tmp_path)
