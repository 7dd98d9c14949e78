"""The pipelines of transformers answer chats with an image and a clip."""

import importlib.util
import inspect
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AnyToAnyPipeline, pipeline

from safe_train.huggingface import SafePipeline, SafeProcessor
from tests.huggingface.made import conversation

NEEDS_LIBROSA = "librosa" in inspect.getsource(AnyToAnyPipeline.__init__)
TASKS = (
    "image-text-to-text",
    pytest.param(
        "any-to-any",
        marks=pytest.mark.skipif(
            NEEDS_LIBROSA and importlib.util.find_spec("librosa") is None,
            reason="the pipeline of this version of transformers asks for librosa",
        ),
    ),
)


@pytest.mark.parametrize("task", TASKS)
def test_a_pipeline_answers_as_safe_does(task, loaded, processor, plain, encoder, heard, caplog):
    row = heard[0]
    with caplog.at_level(logging.ERROR, logger="transformers"):
        pipe = pipeline(task, model=loaded, processor=processor)
    assert caplog.records == []  # the class is one that the pipeline knows
    expected = plain.generate(
        encoder.prompt_batch([row]).inputs, encoder.features_of([row]), max_new_tokens=8, do_sample=False
    )
    (answer,) = pipe(text=conversation(row), max_new_tokens=8, return_full_text=False)
    assert answer["generated_text"].strip() == encoder.decode(expected)[0]


@pytest.mark.parametrize("task", TASKS)
def test_a_folder_is_enough(task, folder, heard):
    pipe = pipeline(task, model=str(folder))
    chats = [conversation(row) for row in heard[:2]]
    answers = pipe(text=chats, max_new_tokens=4)
    assert [answer[0]["generated_text"][-1]["role"] for answer in answers] == ["assistant", "assistant"]


def test_the_clip_is_heard(loaded, processor, heard):
    pipe = pipeline("image-text-to-text", model=loaded, processor=processor)
    chats = [conversation(row, audio=audio) for row in heard[:6] for audio in (True, False)]
    texts = [pipe(text=chat, max_new_tokens=4, return_full_text=False)[0]["generated_text"] for chat in chats]
    assert texts[::2] != texts[1::2]
    assert torch.is_inference_mode_enabled() is False


def noise(seconds):
    samples = 0.1 * np.random.default_rng(0).standard_normal(int(16_000 * seconds)).astype(np.float32)
    return {"array": samples, "sampling_rate": 16_000}


MIXED = {
    "questions of other lengths": lambda row, k: conversation(replace(row, question=row.question + " please" * k)),
    "some with an image": lambda row, k: conversation(replace(row, image=row.image if k % 2 else None)),
    "some with a clip": lambda row, k: conversation(row, audio=k % 2 == 0),
    "clips of other lengths": lambda row, k: [
        {
            "role": "user",
            "content": [{"type": "audio", "audio": noise(0.5 + k / 8)}, {"type": "text", "text": row.question}],
        }
    ],
    "nothing but text": lambda row, _: [{"role": "user", "content": row.question}],
}


@pytest.mark.parametrize("batch_size", [3, 4])
@pytest.mark.parametrize("chat_of", MIXED.values(), ids=MIXED)
def test_a_batch_of_any_rows_is_answered_as_they_are_alone(loaded, processor, heard, monkeypatch, chat_of, batch_size):
    """Whatever side the base's tokenizer pads on by itself."""
    monkeypatch.setattr(processor.tokenizer, "padding_side", "right")
    chats = [chat_of(row, k) for k, row in enumerate(heard[:6])]
    pipe = pipeline("image-text-to-text", model=loaded, processor=processor, pipeline_class=SafePipeline)
    given = {"max_new_tokens": 6, "return_full_text": False}
    alone = [pipe(text=chat, **given)[0]["generated_text"] for chat in chats]
    plain = pipeline("image-text-to-text", model=loaded, processor=processor)
    assert [plain(text=chat, **given)[0]["generated_text"] for chat in chats] == alone
    together = pipe(text=chats, batch_size=batch_size, **given)
    assert [answer["generated_text"] for (answer,) in together] == alone
    assert len(set(alone)) > 1
    whole = pipe(text=chats, batch_size=batch_size, max_new_tokens=6)
    assert [answer["generated_text"][-1]["content"] for (answer,) in whole] == alone


@pytest.mark.parametrize("name", ["some with an image", "some with a clip", "clips of other lengths"])
def test_negative_control_the_plain_pipeline_cannot_join_them(loaded, processor, heard, name):
    pipe = pipeline("image-text-to-text", model=loaded, processor=processor)
    with pytest.raises((ValueError, RuntimeError), match=r"different keys|must match the existing size"):
        pipe(text=[MIXED[name](row, k) for k, row in enumerate(heard[:6])], batch_size=3, max_new_tokens=2)


def test_prompts_that_the_plain_pipeline_joins_are_padded_where_generation_needs_it(loaded, processor, heard):
    """Also of a base whose tokenizer pads on the right by itself."""
    processor.tokenizer.padding_side = "right"
    again = SafeProcessor(processor.base_processor, processor.extractors, processor.config)
    pipe = pipeline("image-text-to-text", model=loaded, processor=again)
    rows = [replace(row, audio=None, question=row.question + " please" * k) for k, row in enumerate(heard[:6])]
    chats = [conversation(row) for row in rows]
    given = {"max_new_tokens": 6, "return_full_text": False}
    alone = [pipe(text=chat, **given)[0]["generated_text"] for chat in chats]
    assert [answer["generated_text"] for (answer,) in pipe(text=chats, batch_size=3, **given)] == alone


def test_a_batch_of_answers_that_are_begun_goes_on_with_them(loaded, processor, heard):
    chats = [
        [*conversation(row), {"role": "assistant", "content": [{"type": "text", "text": "a"}]}] for row in heard[:3]
    ]
    pipes = [
        pipeline("image-text-to-text", model=loaded, processor=processor, **given)
        for given in ({}, {"pipeline_class": SafePipeline})
    ]
    expected, found = ([pipe(text=chat, max_new_tokens=4) for chat in chats] for pipe in pipes)
    assert found == expected
    assert pipes[1](text=chats, batch_size=3, max_new_tokens=4) == expected


def test_what_is_no_chat_goes_the_way_of_any_pipeline(loaded, processor):
    pipe = pipeline("image-text-to-text", model=loaded, processor=processor, pipeline_class=SafePipeline)
    plain = pipeline("image-text-to-text", model=loaded, processor=processor)
    assert pipe(text="what?", max_new_tokens=4) == plain(text="what?", max_new_tokens=4)
