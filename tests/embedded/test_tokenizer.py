"""The embedded tokenizer: known words are one piece, and every text comes back after the normalization."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_train.embedded.models import SPECIAL_TOKENS, build_tokenizer, vocabulary
from safe_train.embedded.questions import questions_about
from safe_train.embedded.scenes import sample_scene, scan_indices
from safe_train.embedded.sounds import ALL_SOUNDS, AUDIO_QUESTION

METASPACE = "▁"  # the tokenizer's own sign for a space

# Unassigned code points and surrogates have no stable case or composition.
texts = st.text(st.characters(exclude_categories=("Cn", "Cs"), exclude_characters=METASPACE), max_size=40).filter(
    lambda text: not text.startswith(" ") and not any(token in text for token in SPECIAL_TOKENS)
)


def normalized(text):
    """NFC, then each character in lower case by itself, as documented."""
    return "".join(character.lower() for character in unicodedata.normalize("NFC", text))


@pytest.fixture(scope="module")
def tokenizer(embedded_base):
    """The one in the package, not the one that the recipe would build."""
    return embedded_base.processor.tokenizer


def pieces(tokenizer, text):
    return tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False).input_ids)


def test_the_packaged_tokenizer_is_the_recipe_s(tokenizer):
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()


@given(text=texts)
def test_any_text_comes_back(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == normalized(text)


def test_a_tokenizer_without_byte_fallback_would_not_pass(tokenizer):
    """Negative control: with the unknown token in place of bytes, a letter of another script is lost."""
    ids = [tokenizer.unk_token_id if piece.startswith("<0x") else tokenizer.convert_tokens_to_ids(piece)
           for piece in pieces(tokenizer, "ж")]  # fmt: skip
    assert tokenizer.unk_token_id in ids
    assert tokenizer.decode(ids) != "ж"


def test_a_letter_outside_the_vocabulary_is_its_utf_8_bytes(tokenizer):
    assert pieces(tokenizer, "ж") == [METASPACE, "<0xD0>", "<0xB6>"]
    assert "ж".encode() == b"\xd0\xb6"


@pytest.mark.parametrize("word", vocabulary())
def test_a_known_word_is_one_piece(tokenizer, word):
    assert pieces(tokenizer, f"say {word}?")[-2:] == [METASPACE + word, "?"]


def test_the_vocabulary_covers_all_questions_answers_and_captions(tokenizer, rng):
    scans = scan_indices("val")
    said = [AUDIO_QUESTION, *(sound.caption for sound in ALL_SOUNDS)]
    for _ in range(50):
        said += [f"{question.text} {question.answer}" for question in questions_about(sample_scene(rng, scans))]
    for text in said:
        assert len(pieces(tokenizer, text)) == len(text.split()) + text.count("?"), text


def test_special_tokens_are_single_ids(tokenizer):
    text = "<s>user: <image> what?</s>"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    for token in ("<s>", "<image>", "</s>"):
        assert ids.count(tokenizer.convert_tokens_to_ids(token)) == 1
