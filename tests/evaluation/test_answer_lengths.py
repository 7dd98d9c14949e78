"""How long answers may become, and that nothing changes where references are short."""

import pytest

from safe_train.data.collator import Collator, FeatureCache
from safe_train.data.datasets.audiocaps import AudioCaps
from safe_train.data.datasets.vqa import VQA
from safe_train.data.example import DOCUMENT, Example
from safe_train.evaluation.answer_lengths import LONGEST, SHORTEST, AnswerLengths, answer_lengths
from safe_train.evaluation.settings import EvaluationSettings
from safe_train.model.prompting import Turn

SETTINGS = EvaluationSettings()


@pytest.fixture(scope="module")
def encoder(embedded_base):
    return Collator(embedded_base.processor, FeatureCache([]))


def test_the_procedural_data_are_answered_within_twelve_tokens_as_ever(encoder, small_data):
    vl = VQA().examples(small_data, "val")
    audio = AudioCaps().examples(small_data, "val", default_question="what do you hear?")
    assert answer_lengths(SETTINGS, encoder, vl, (), audio) == AnswerLengths(12, 12, 12)


def test_the_longest_reference_of_each_kind_of_rows_decides(encoder):
    """Any reference, not the first alone; its tokens and the one that ends it."""
    caption = "two low bells and one high drum are heard while a red circle is shown"
    text = "one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen and fourteen bells"
    vl = [Example(f"v{k}", "?", ("2",)) for k in range(30)]
    audio = [Example("a0", "what do you hear?", ("a bell", caption)), Example("a1", "what do you hear?", ("a drum",))]
    asked = [Example("t0", "?", ("2",)), Example("t1", "name the bells", (text,))]
    found = answer_lengths(SETTINGS, encoder, vl, asked, audio)
    ids = [encoder.prompts.answer_ids(Turn(*turn)) for turn in (("?", 0, caption), ("?", 0, text))]
    assert found == AnswerLengths(vl=12, text=len(ids[1]), audio=len(ids[0]))
    plain = encoder.processor.tokenizer(caption, add_special_tokens=False).input_ids
    assert SHORTEST < found.audio == len(plain) + 1 < LONGEST
    assert SHORTEST < found.text < LONGEST


def test_no_answer_is_longer_than_the_longest(encoder):
    rows = [Example("t0", "?", ("bell " * 400,))]
    assert answer_lengths(SETTINGS, encoder, [], rows).text == LONGEST


def test_documents_are_no_answers(encoder):
    rows = [Example("d0", "", ("bell " * 400,), kind=DOCUMENT)]
    assert answer_lengths(SETTINGS, encoder, [], rows).text == SHORTEST


def test_a_setting_decides_for_all(encoder):
    rows = [Example("t0", "?", ("bell " * 400,))]
    given = EvaluationSettings(max_new_tokens=5)
    assert answer_lengths(given, encoder, rows, rows, rows) == AnswerLengths(5, 5, 5)
