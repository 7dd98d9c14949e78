"""The converted models do what they are known for, and SAFE trains on them."""

import json

import pytest
import torch
from transformers import LlamaForCausalLM

from experiments.real.base import language_folder
from experiments.real.train_base import draw_by_image
from experiments.real.verify import PHOTOGRAPHS, edit_distance, named_photographs, word_error_rate
from safe_train.config import build_config
from safe_train.data.datasets.text import Text
from safe_train.data.datasets.vqa import VQA
from safe_train.evaluation.base_answers import base_answers
from safe_train.evaluation.settings import EvaluationSettings
from safe_train.model.loading import load_base
from safe_train.training.callbacks import RunCallbacks
from safe_train.training.run import start_run

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def base(request):
    """The base in bfloat16, loaded once."""
    loaded = {}

    def load(real):
        return loaded.setdefault("base", load_base(str(real / "base"), dtype=torch.bfloat16))

    return load


def test_the_edit_distance_is_the_published_one():
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("", "abc") == 3
    assert edit_distance("abc", "abc") == 0


def test_the_vision_tower_names_photographs(real):
    """Weights in wrong places name one of a thousand by chance."""
    assert named_photographs() >= 0.6 * len(PHOTOGRAPHS)


def test_whisper_writes_down_recordings(real):
    """Whisper tiny.en has a word error rate of 5.6 % on clean read speech (Radford et al. 2022, arXiv:2212.04356)."""
    rate, words = word_error_rate(12)
    assert words > 50
    assert rate < 0.2


def test_without_an_image_the_base_is_the_language_model(real, base):
    """Bit for bit: the vision tower and the projector have no part in it."""
    found, language = base(real), LlamaForCausalLM.from_pretrained(language_folder(), dtype=torch.bfloat16)
    tokens = found.processor.tokenizer
    ids = tokens("What is the capital of France? Answer with one word.", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(found.model(input_ids=ids).logits, language(input_ids=ids).logits)


def test_digits_are_tokens_of_their_own_and_the_image_has_one(real, base):
    tokenizer = base(real).processor.tokenizer
    assert tokenizer.convert_ids_to_tokens(tokenizer("a 123<image>").input_ids) == ["a", "Ġ", "1", "2", "3", "<image>"]


def test_the_base_answers_questions_about_held_out_images(real, base):
    """The model card says more than 85 %; with 200 questions a base of 85 % is below 78 % once in 200 draws."""
    examples = draw_by_image(VQA().examples(real / "data", "val"), 200, seed=1)
    drawn = [example for example in examples if example.kind in ("color", "shape", "yes/no")]
    scores = base_answers(base(real), drawn, EvaluationSettings(batch_size=50)).scores
    assert len(scores) > 150
    assert sum(scores) / len(scores) > 0.78


def test_the_base_answers_text_only_questions(real, base):
    text = [example for example in Text().examples(real / "data", "val") if not example.is_document][:60]
    predictions = base_answers(base(real), [], EvaluationSettings(batch_size=30), text=text).text
    assert sum(prediction.score for prediction in predictions) / len(text) > 0.4


def test_a_run_trains_and_its_bypass_is_the_base(real, tmp_path):
    settings = {
        "model.config": "real", "variant": "full_retention", "optimization.max_steps": "3",
        "optimization.audio_batch_size": "4", "optimization.vl_batch_size": "4", "evaluation.max_vl": "8",
        "evaluation.max_text": "8", "evaluation.max_audio": "8", "evaluation.conditions": '["distractor"]',
        "output_root": str(tmp_path),
    }  # fmt: skip
    outcome = start_run(build_config({}, settings), RunCallbacks())
    evaluation = json.loads((outcome.folder / "metrics.json").read_text())["evaluation"]
    assert evaluation["vl"]["bypass"]["bit_equal"]
    assert evaluation["text"]["bypass"]["bit_equal"]
    assert evaluation["vl"]["distractor"]["rows"] == 8
