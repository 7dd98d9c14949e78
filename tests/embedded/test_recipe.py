"""The recipe runs, gives the same bits twice, and what it writes loads as a base and an audio encoder."""

import json
import math
from collections import Counter

import pytest
import torch

from experiments.embedded_model import recipe as recipe_module
from experiments.embedded_model.recipe import make_audio_encoder, make_base, measure_base
from experiments.embedded_model.train_audio import AudioRecipe
from experiments.embedded_model.train_base import BaseRecipe, document_losses
from safe_train.embedded import weights
from safe_train.embedded.dataset import DatasetSizes, write_dataset
from safe_train.model.audio.encoder import load_audio_encoder
from safe_train.model.loading import load_base
from tests.tolerances import LOGITS, relative_error

AUDIO = AudioRecipe(num_clips=20, epochs=1, batch_size=10)
BASE = BaseRecipe(
    num_scenes=24, batch_size=4, vision_steps=2, answer_steps=15, questions_per_image=4, document_batch_size=3
)


@pytest.fixture(autouse=True)
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_the_base_comes_out_the_same_twice(tmp_path):
    states = []
    for name in ("first", "second"):
        make_base(tmp_path / name, BASE)
        states.append(load_base(str(tmp_path / name)).model.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_the_audio_encoder_comes_out_the_same_twice(tmp_path):
    states = []
    for name in ("first", "second"):
        make_audio_encoder(tmp_path / name, AUDIO)
        states.append(load_audio_encoder(str(tmp_path / name)).model.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_cycle_teaches_images_text_documents_and_notes():
    assert set(BaseRecipe().cycle) == set("itdn")
    assert BASE.answer_steps > len(BASE.cycle)  # so that the tests above go through all four


def test_losses_of_documents_are_those_of_one_document_at_a_time(embedded_base):
    """Padding is neither seen nor counted; every token after ``<s>`` is."""
    model, tokenizer = embedded_base.model, embedded_base.processor.tokenizer
    documents = ["today is monday.", "ann has a red ball and tom has a dog. the dog likes the red ball."]
    alone = [document_losses(model, tokenizer, [text]) for text in documents]
    assert [len(losses) for losses in alone] == [4, 18]
    together = document_losses(model, tokenizer, documents)
    assert relative_error(together, torch.cat(alone)) < LOGITS[torch.float32]
    ids = tokenizer("<s>" + documents[0], add_special_tokens=False, return_tensors="pt").input_ids
    logs = model(input_ids=ids).logits[0].double().log_softmax(-1)
    by_definition = -logs[torch.arange(4), ids[0, 1:]]
    assert relative_error(alone[0], by_definition) < LOGITS[torch.float32]


def test_what_is_measured_without_a_model_is_what_the_texts_give(tmp_path, monkeypatch, embedded_base):
    monkeypatch.setattr(recipe_module, "embedded_data_root", lambda _sizes: tmp_path)
    write_dataset(tmp_path, DatasetSizes(*[4] * 8))
    measures = measure_base(weights.base_folder())
    assert set(measures.images) > {"all"}
    assert set(measures.text) == {"all", "sum", "more", "next", "opposite"}  # the first four questions
    val, train = (
        [json.loads(line)["text"] for line in (tmp_path / "text" / f"{split}.jsonl").read_text().splitlines()[4:]]
        for split in ("val", "train")
    )
    tokens, num_bytes = words(" ".join(val)), sum(len(text.encode()) for text in val)
    size = len(embedded_base.processor.tokenizer)
    assert measures.documents["all tokens alike"] == pytest.approx(len(tokens) * math.log2(size) / num_bytes)
    seen = Counter(words(" ".join(train)))
    bits = sum(math.log2((seen.total() + size) / (seen[token] + 1)) for token in tokens)
    assert measures.documents["frequencies of the tokens in the train split"] == pytest.approx(bits / num_bytes)
    assert measures.documents["the base"] < min(list(measures.documents.values())[1:])


def words(text):
    """A document's tokens: its words, and the full stops apart."""
    return text.replace(".", " .").split()


@pytest.mark.parametrize(
    ("arguments", "made"),
    [
        ([], ["audio_encoder", "base"]),
        (["--only", "base"], ["base"]),
        (["--only", "audio_encoder"], ["audio_encoder"]),
        (["--measure-only"], ["base, measured only"]),
    ],
    ids=" ".join,
)
def test_one_of_the_two_can_be_made_alone(tmp_path, monkeypatch, arguments, made):
    done = []
    monkeypatch.setattr(recipe_module, "_audio_encoder", lambda folder: done.append(folder.name))
    monkeypatch.setattr(
        recipe_module,
        "_base",
        lambda folder, measure_only: done.append(folder.name + ", measured only" * measure_only),
    )
    monkeypatch.setattr("sys.argv", ["recipe", "--output", str(tmp_path), *arguments])
    recipe_module.main()
    assert done == made
