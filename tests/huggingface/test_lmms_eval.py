"""lmms-eval finds SAFE by its entry point and gets the answers that SAFE gives."""

import importlib
import importlib.util
import sys
import tomllib
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from safe_train.errors import InputError
from tests.huggingface.lmms_eval_interface import modules

ROOT = Path(__file__).parents[2]
MODEL = "safe_train.huggingface.lmms_eval_model"
SETTINGS = {"max_new_tokens": 8, "temperature": 0, "do_sample": False, "until": ["\n\n"]}


@dataclass
class Instance:
    """A request."""

    args: tuple


@pytest.fixture(scope="module")
def registry():
    """lmms-eval's registry, or the stand-in's, with what the entry point gives."""
    with pytest.MonkeyPatch.context() as patch:
        if importlib.util.find_spec("lmms_eval") is None:
            for name, module in modules().items():
                patch.setitem(sys.modules, name, module)
        patch.delitem(sys.modules, MODEL, raising=False)
        groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
        ((name, value),) = groups["lmms_eval.models"].items()
        found = importlib.import_module("lmms_eval.models.registry_v2").ModelRegistryV2()
        found.register_manifest(EntryPoint(name, value, "lmms_eval.models").load()())
        yield found
        sys.modules.pop(MODEL, None)


@pytest.fixture
def make(registry, folder):
    """Makes the model as lmms-eval does."""

    def made(*settings, simple=True, batch_size=3):
        chosen = registry.get_model_class("safe", force_simple=simple)
        assert chosen.is_simple is simple
        arguments = ",".join([f"pretrained={folder}", "device=cpu", *settings])
        return chosen.create_from_arg_string(arguments, {"batch_size": batch_size, "max_batch_size": None})

    return made


def ask_simple(model, docs, visual, settings=None):
    model.task_dict = {"task": {"val": docs}}
    chosen = settings or [SETTINGS] * len(docs)
    return model.generate_until(
        [Instance((doc.question, chosen[k], visual, k, "task", "val")) for k, doc in enumerate(docs)]
    )


def image_of(doc):
    with Image.open(doc.image) as image:
        return image.convert("RGB")


def clip_of(doc):
    """As `datasets` gives it."""
    samples, rate = soundfile.read(doc.audio, dtype="float32")
    return {"array": samples, "sampling_rate": rate, "path": None}


def expected_answers(plain, encoder, rows, audio):
    features = encoder.features_of(rows) if audio else None
    generated = plain.generate(encoder.prompt_batch(rows).inputs, features, max_new_tokens=8, do_sample=False)
    return encoder.decode(generated)


def test_answers_are_safes_in_the_order_of_the_requests(make, plain, encoder, heard):
    rows = heard[:7]
    model = make()
    found = ask_simple(model, rows, lambda doc: [image_of(doc), clip_of(doc)])
    assert found == expected_answers(plain, encoder, rows, audio=True)
    assert ask_simple(model, rows, lambda doc: [image_of(doc)]) == expected_answers(plain, encoder, rows, audio=False)
    assert ask_simple(make("gate=0"), rows, lambda doc: [image_of(doc), clip_of(doc)]) == expected_answers(
        plain, encoder, rows, audio=False
    )


def test_requests_of_other_settings_are_not_mixed(make, heard):
    rows = heard[:4]
    short = SETTINGS | {"max_new_tokens": 1}
    alone = ask_simple(make(), rows, lambda doc: [image_of(doc)])
    mixed = ask_simple(make(), rows, lambda doc: [image_of(doc)], [SETTINGS, short, SETTINGS, short])
    assert mixed[::2] == alone[::2]
    assert all(len(text.split()) <= 1 for text in mixed[1::2])


def test_chat_messages_give_the_same_answers(make, plain, encoder, heard):
    rows = heard[:4]
    model = make(simple=False)
    model.task_dict = {"task": {"val": rows}}

    def messages(doc):
        # What is no image lmms-eval calls a video, the arrays of clips included.
        content = [{"type": "image", "url": image_of(doc)}, {"type": "video", "url": clip_of(doc)}]
        return [{"role": "user", "content": [*content, {"type": "text", "text": doc.question}]}]

    requests = [Instance((doc.question, messages, SETTINGS, k, "task", "val")) for k, doc in enumerate(rows)]
    assert model.generate_until(requests) == expected_answers(plain, encoder, rows, audio=True)


def test_a_distractor_plays_where_the_task_has_no_audio(make, plain, encoder, heard):
    rows = heard[:4]
    clip = rows[0].audio
    model = make(f"distractor={clip}")
    with_it = expected_answers(plain, encoder, [replace(row, audio=clip) for row in rows], audio=True)
    assert ask_simple(model, rows, lambda doc: [image_of(doc)]) == with_it
    own = ask_simple(model, rows, lambda doc: [image_of(doc), clip_of(doc)])
    assert own == expected_answers(plain, encoder, rows, audio=True)


def test_the_likelier_answer_has_the_lower_value(make, embedded_base, heard):
    """lmms-eval takes the option with the smallest first value."""
    rows = heard[:12]
    model = make()
    model.task_dict = {"task": {"val": rows}}
    options = ["red", "green", rows[0].answers[0]]
    results = model.loglikelihood(
        [
            Instance((doc.question, answer, lambda doc: [image_of(doc)], k, "task", "val"))
            for k, doc in enumerate(rows)
            for answer in (doc.answers[0], "purple square", *options)
        ]
    )
    per_row = [results[5 * k : 5 * k + 5] for k in range(len(rows))]
    best = [int(np.argmin([value for value, _ in row])) for row in per_row]
    answers = [(row.answers[0], "purple square", *options)[index] for row, index in zip(rows, best, strict=True)]
    right = sum(answer == row.answers[0] for answer, row in zip(answers, rows, strict=True))
    assert right >= len(rows) - 1  # the embedded base is right on 99.9 %
    assert [row[0][1] for row in per_row] == [
        answer == row.answers[0] for answer, row in zip(answers, rows, strict=True)
    ]
    assert not any(row[1][1] for row in per_row)


def test_the_value_is_the_mean_negative_log_likelihood(make, plain, encoder, heard):
    row = replace(heard[0], answers=("purple square",))  # a wrong one, whose likelihood is no rounding error
    model = make()
    model.task_dict = {"task": {"val": [row]}}
    ((value, _),) = model.loglikelihood(
        [Instance((row.question, lambda doc: doc.answers[0], lambda doc: [image_of(doc)], 0, "task", "val"))]
    )
    batch = encoder.training_batch([row])
    with torch.no_grad():
        hidden = plain.last_hidden_state(batch.inputs, None)[batch.token_rows, batch.token_positions]
        chosen = plain.base.head(hidden).double().log_softmax(-1).gather(1, batch.labels[:, None])
    assert value == pytest.approx(-chosen.mean().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("answer", "stops", "expected"),
    [
        ("red\n\nblue", ["\n\n"], "red"),
        ("a. b? c", ["?", "."], "a"),
        ("whole", ["", "x"], "whole"),
        ("red ", [], "red"),
    ],
)
def test_answers_end_at_the_first_stop_string(registry, answer, stops, expected):
    assert importlib.import_module(MODEL).cut(answer, stops) == expected


def test_generation_settings_become_options(registry):
    convert = importlib.import_module(MODEL).generation_options
    assert convert({"until": "\n"}) == ({"max_new_tokens": 256, "num_beams": 1, "do_sample": False}, ["\n"])
    sampled, stops = convert({"temperature": 0.7, "top_p": 0.9, "num_beams": 2, "max_new_tokens": 5})
    assert (sampled, stops) == (
        {"max_new_tokens": 5, "num_beams": 2, "do_sample": True, "temperature": 0.7, "top_p": 0.9}, [],
    )  # fmt: skip


def test_bad_arguments_are_one_line(make):
    with pytest.raises(InputError, match="batch_size: expected a number, got auto"):
        make(batch_size="auto")
    with pytest.raises(InputError, match="distractor: expected an audio file"):
        make("distractor=missing.wav")
    with pytest.raises(NotImplementedError, match="one round"):
        make().generate_until_multi_round([])
