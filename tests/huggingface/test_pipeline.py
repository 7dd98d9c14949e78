"""The pipelines of transformers answer chats with an image and a clip."""

import importlib.util
import inspect
import logging

import pytest
import torch
from transformers import AnyToAnyPipeline, pipeline

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
