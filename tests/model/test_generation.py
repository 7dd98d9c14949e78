"""Answers are greedy and end where the prompts' form ends them, whatever a base's own generation settings say."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AddedToken

from safe_train.config import StageAConfig
from safe_train.configs.model_configs import EMBEDDED
from safe_train.data.cache.features import FeatureCache
from safe_train.data.collator import Collator
from safe_train.embedded import weights
from safe_train.evaluation.answer_lengths import AnswerLengths
from safe_train.evaluation.base_answers import base_answers
from safe_train.evaluation.fingerprint import base_key
from safe_train.evaluation.settings import EvaluationSettings
from safe_train.model.base import Base
from safe_train.model.generation import contiguous_states, generate_greedily, greedy, own_settings, stop_tokens
from safe_train.model.loading import load_base

CONFIGURATION = "generation_config.json"
LENGTH = 6
LENGTHS = AnswerLengths(LENGTH, LENGTH, LENGTH)
A_WORD = 300  # no special token
WORDS = list(range(5, 676))
OWN_SETTINGS = {
    "beams": {"num_beams": 4},
    "beams, several of them": {"num_beams": 4, "num_return_sequences": 2},
    "sampling": {"do_sample": True, "temperature": 5.0},
    "several samples": {"do_sample": True, "num_return_sequences": 3},
    "a dictionary": {"return_dict_in_generate": True, "output_scores": True},
    "a least length": {"min_new_tokens": 5},
    "a least length with the prompt": {"min_length": 60},
    "a penalty on repetition": {"repetition_penalty": 50.0},
    "no repeated words": {"no_repeat_ngram_size": 1},
    "forbidden words": {"suppress_tokens": WORDS},
    "forbidden first words": {"begin_suppress_tokens": WORDS},
    "bad words": {"bad_words_ids": [[token] for token in WORDS]},
    "a forced end": {"forced_eos_token_id": 5},
    "a forced beginning": {"forced_bos_token_id": A_WORD},
    "another end": {"eos_token_id": 1},
    "a word for an end": {"eos_token_id": A_WORD},
    "no end": {"eos_token_id": None},
    "a stop string": {"stop_strings": ["a", "e", "o"]},
    "a short limit": {"max_new_tokens": 1},
    "a short limit with the prompt": {"max_length": 2},
    "another padding": {"pad_token_id": A_WORD},
    "guidance": {"guidance_scale": 3.0},
    "contrast": {"penalty_alpha": 0.6, "top_k": 4},
    "no cache": {"use_cache": False},
    "a static cache": {"cache_implementation": "static"},
    "code of its own": {"custom_generate": "x/y"},
    "a decay": {"exponential_decay_length_penalty": [0, 9.0]},
}
WITHOUT_EFFECT = {
    "sampling", "a short limit", "a short limit with the prompt", "another padding", "code of its own", "no cache",
    "a static cache",
}  # fmt: skip
"""What an argument of the call always overruled, or what a greedy answer never depended on."""


def written(folder: Path, settings: dict) -> str:
    """The embedded base with its generation settings changed."""
    shutil.copytree(weights.base_folder(), folder)
    path = folder / CONFIGURATION
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return str(folder)


def answers(base: Base, rows) -> list[tuple]:
    """Answers of the base, whether they ended, and the generated tokens."""
    found = base_answers(base, rows, EvaluationSettings(), text=rows[1:2], lengths=LENGTHS)
    return [(sample.answer, sample.ended) for sample in (*found.samples, *found.text)]


def by_hand(base: Base, rows, *, stop: int) -> list[list[int]]:
    """Greedy search by forward passes alone, each row by itself; up to and with what ends an answer."""
    encoder, found = Collator(base.processor, FeatureCache([])), []
    for row in rows:
        inputs = encoder.prompt_batch([row]).inputs
        length = inputs["input_ids"].shape[1]
        while inputs["input_ids"].shape[1] < length + LENGTH and inputs["input_ids"][0, -1] != stop:
            with torch.no_grad():
                following = base.model(**inputs).logits[:, -1:].argmax(dim=-1)
            inputs["input_ids"] = torch.cat([inputs["input_ids"], following], dim=1)
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        found.append(inputs["input_ids"][0, length:].tolist())
    return found


@pytest.fixture(scope="module")
def unheard(rows):
    return [replace(row, audio=None) for row in rows]


@pytest.fixture(scope="module")
def expected(embedded_base, unheard):
    """Answers by hand of the base as it is."""
    stop = embedded_base.processor.tokenizer.eos_token_id
    tokens = by_hand(embedded_base, unheard, stop=stop)
    assert any(row[-1] == stop for row in tokens)
    texts = [embedded_base.processor.tokenizer.decode(row, skip_special_tokens=True).strip() for row in tokens]
    found = [(text, stop in row or len(row) < LENGTH) for text, row in zip(texts, tokens, strict=True)]
    return [*found, found[1]]


@pytest.mark.parametrize("name", OWN_SETTINGS)
def test_a_bases_own_generation_settings_change_no_answer(tmp_path, unheard, expected, name):
    base = load_base(written(tmp_path / "base", OWN_SETTINGS[name]))
    own = base.model.generation_config
    assert answers(base, unheard) == expected
    assert base.model.generation_config is own  # whoever uses the base apart from us finds it as it was


def test_the_templates_end_ends_an_answer(tmp_path, unheard, expected):
    """As of Llama 3: the tokenizer's end and the configured one are another than what the template ends a turn with."""
    folder = Path(written(tmp_path / "base", {"eos_token_id": 3}))
    (folder / "chat_template.jinja").write_text(
        (folder / "chat_template.jinja").read_text().replace("{{ eos_token }}", "</s>")
    )
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token": "<unk>"}))
    base = load_base(str(folder))
    assert base.processor.tokenizer.eos_token_id == 3
    assert stop_tokens(base) == [2, 3]
    assert answers(base, unheard) == expected


@pytest.mark.parametrize("special", [True, False])
def test_of_configured_ends_the_special_ones_count(special):
    """As Qwen's <|im_end|>, which is added to the tokenizer beside its own end and is none of its named tokens."""
    base = load_base(EMBEDDED)
    tokenizer = base.processor.tokenizer
    tokenizer.add_tokens([AddedToken("<|turn_end|>", special=special)])
    added = tokenizer.convert_tokens_to_ids("<|turn_end|>")
    assert added not in tokenizer.all_special_ids
    base.model.generation_config.eos_token_id = [added, tokenizer.eos_token_id]
    assert stop_tokens(base) == [tokenizer.eos_token_id, *([added] if special else [])]


def test_options_of_the_call_win(embedded_base, unheard):
    prompts = Collator(embedded_base.processor, FeatureCache([])).prompt_batch(unheard).inputs
    whole = generate_greedily(embedded_base, prompts, LENGTH)
    assert generate_greedily(embedded_base, prompts, 1).tolist() == whole[:, :1].tolist()
    assert generate_greedily(embedded_base, prompts, LENGTH, min_new_tokens=LENGTH).shape[1] == LENGTH > whole.shape[1]


@pytest.mark.parametrize("name", OWN_SETTINGS)
def test_answers_that_depended_on_them_are_not_taken_again(tmp_path, unheard, embedded_base, name):
    """Answers once depended on the settings; a folder of such answers stands under a key without them."""
    base = load_base(written(tmp_path / "base", OWN_SETTINGS[name]))
    key = base_key(StageAConfig(), base, unheard, LENGTHS)
    plain = base_key(StageAConfig(), embedded_base, unheard, LENGTHS)
    assert "overruled" not in plain
    without_effect = name in WITHOUT_EFFECT
    assert ("overruled" not in key) == without_effect == (not own_settings(base))


def seen_by_head(base: Base, generate) -> list[bool]:
    """Of each call of the head while ``generate`` runs, whether its states are contiguous."""
    seen = []
    head = base.model.get_output_embeddings()
    own = head.forward
    head.forward = lambda states: (seen.append(states.is_contiguous()), own(states))[1]
    try:
        generate()
    finally:
        del head.forward
    return seen


@pytest.mark.parametrize(("dtype", "in_one_piece"), [(torch.bfloat16, True), (torch.float32, False)])
def test_the_head_gets_prompts_in_one_piece_in_half_precision(dtype, in_one_piece, rows):
    """In float32 the last bits would be others than those of earlier answers."""
    base = load_base(EMBEDDED, dtype=dtype)
    prompts = Collator(base.processor, FeatureCache([]), dtype=dtype).prompt_batch(rows).inputs
    seen = seen_by_head(base, lambda: generate_greedily(base, prompts, 4))
    assert seen == [in_one_piece, *[True] * (len(seen) - 1)]
    assert len(seen) > 1
    with greedy(base):  # the control: transformers gives it a slice, and nothing is left behind
        assert not seen_by_head(base, lambda: base.model.generate(**prompts, max_new_tokens=4))[0]


def test_logits_in_half_precision_are_those_of_transformers_alone(sources, source, rows):
    base = load_base(source, dtype=torch.bfloat16)
    prompts = Collator(base.processor, FeatureCache([]), dtype=torch.bfloat16).prompt_batch(rows).inputs
    options = {"max_new_tokens": 4, "output_logits": True, "return_dict_in_generate": True}
    with greedy(base):
        expected = base.model.generate(**prompts, **options)
        with contiguous_states(base):
            found = base.model.generate(**prompts, **options)
    assert torch.equal(found.sequences, expected.sequences)
    assert all(torch.equal(*pair) for pair in zip(found.logits, expected.logits, strict=True))
