"""Questions without an image, answered again by other means, and documents whose statements are checked."""

import calendar
import re
import string
from collections import Counter

import numpy as np
import pytest

from safe_train.embedded.models import build_tokenizer
from safe_train.embedded.questions import QUESTION_TYPES
from safe_train.embedded.sounds import KINDS, PITCHES
from safe_train.embedded.text_skills import (
    CAPITALS,
    CATEGORIES,
    IN_CONTEXT,
    OPPOSITES,
    TEXT_TYPES,
    known_questions,
    sample_document,
    sample_text_question,
    split_of,
    text_words,
)
from safe_train.metrics.vqa_accuracy import normalize_answer

NUMBER_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
                "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
                "twenty"]  # fmt: skip
DAYS = [name.lower() for name in calendar.day_name]
MONTHS = [name.lower() for name in calendar.month_name[1:]]
OPPOSITE_PHRASES = (r"what is the opposite of (\w+)\?", r"(\w+) is the opposite of what\?")
FACTS = {
    ("capital", "france"): "paris",
    ("capital", "peru"): "lima",
    ("legs", "spider"): "8",
    ("wheels", "tricycle"): "3",
    ("young", "dog"): "puppy",
    ("color", "grass"): "green",
    ("color", "blood"): "red",
    ("legs", "ant"): "6",
    ("wheels", "bicycle"): "2",
    ("capital", "turkey"): "ankara",
    ("capital", "canada"): "ottawa",
}  # samples of what is looked up, from outside


def value(word):
    return NUMBER_WORDS.index(word) if word in NUMBER_WORDS else int(word)


def same_form(number, like):
    """The number in words or in digits, as the question has its own."""
    return NUMBER_WORDS[number] if like in NUMBER_WORDS else str(number)


def neighbor(noun, relation, word):
    step = 1 if relation == "after" else -1
    sequence = {"number": NUMBER_WORDS, "letter": list(string.ascii_lowercase), "day": DAYS, "month": MONTHS}[noun]
    place = sequence.index(word) + step
    if noun in ("day", "month"):
        return sequence[place % len(sequence)]
    assert 0 <= place < len(sequence)
    return sequence[place]


def computed(kind, prompt):
    """All right answers by the words of the question; None for a type that has to be looked up."""
    if kind == "sum":
        a, sign, b = re.fullmatch(r"(?:what|how much) is (\w+) (plus|minus) (\w+)\?", prompt).groups()
        return {same_form(value(a) + value(b) if sign == "plus" else value(a) - value(b), a)}
    if kind == "more":
        which, a, b = re.fullmatch(r"which is (more|less) (\d+) or (\d+)\?", prompt).groups()
        return {str((max if which == "more" else min)(int(a), int(b)))}
    if kind == "next":
        noun, relation, word = re.fullmatch(
            r"(?:what|which) (\w+) (?:comes|is just) (after|before) (\w+)\?", prompt
        ).groups()
        return {neighbor(noun, relation, word)}
    if kind == "repeat":
        return {re.fullmatch(r"(?:say again|repeat the words): (.*)", prompt)[1]}
    if kind == "reverse":
        return {" ".join(re.fullmatch(r"(?:say backwards|turn the words around): (.*)", prompt)[1].split()[::-1])}
    if kind == "recall":
        pairs = re.findall(r"(\w+) has the (\w+)\.", prompt)
        assert len(pairs) == 2
        if thing := re.search(r"who has the (\w+)\?$", prompt):
            return {name for name, owned in pairs if owned == thing[1]}
        name = re.search(r"what does (\w+) have\?$", prompt)[1]
        return {owned for owner, owned in pairs if owner == name}
    return None


def drawn(kind, count=300):
    rng = np.random.default_rng(7)
    return [sample_text_question(kind, rng) for _ in range(count)]


@pytest.mark.parametrize("kind", ["sum", "more", "next", *IN_CONTEXT])
def test_every_question_has_the_one_answer_that_a_recomputation_gives(kind):
    questions = drawn(kind) if kind in IN_CONTEXT else [q for q in known_questions() if q.kind == kind]
    assert len(questions) >= 80
    for question in questions:
        assert computed(kind, question.prompt) == {question.answer}, question


def test_the_recomputation_finds_a_wrong_answer_and_a_question_with_two():
    """Negative control."""
    assert computed("sum", "what is 3 plus 5?") != {"9"}
    assert computed("next", "what number comes before seven?") != {"eight"}
    assert computed("recall", "tom has the bell. ann has the bell. who has the bell?") == {"tom", "ann"}


def test_sums_are_small_and_answered_in_the_form_they_are_asked_in():
    assert computed("sum", "how much is nine minus seven?") == {"two"}
    assert all(0 <= value(question.answer) <= 20 for question in known_questions() if question.kind == "sum")


def test_opposites_are_symmetric_and_no_word_has_two():
    asked = {}
    for question in known_questions():
        if question.kind == "opposite":
            word = next(found[1] for phrase in OPPOSITE_PHRASES if (found := re.fullmatch(phrase, question.prompt)))
            asked.setdefault(word, set()).add(question.answer)
    assert all(len(answers) == 1 for answers in asked.values())
    assert all(asked[min(answers)] == {word} for word, answers in asked.items())
    assert len(asked) == 2 * len(OPPOSITES) >= 50


def test_facts_are_many_and_every_wording_has_the_answer_of_its_fact():
    facts = [question for question in known_questions() if question.kind == "fact"]
    by_item = {}
    for fact in facts:
        by_item.setdefault(fact.item, set()).add(fact.answer)
    assert 40 <= len(by_item) <= 60
    assert all(len(answers) == 1 for answers in by_item.values())
    assert all(2 <= count <= 3 for count in Counter(fact.item for fact in facts).values())


@pytest.mark.parametrize(("subject", "answer"), FACTS.items(), ids=str)
def test_facts_agree_with_what_is_known(subject, answer):
    asked = [q for q in known_questions() if q.kind == "fact" and all(word in q.prompt.split() or f"{word}?" in q.prompt
             for word in subject)]  # fmt: skip
    assert asked
    assert {question.answer for question in asked} == {answer}


def test_a_thing_is_of_its_kind_and_of_no_other():
    members = [question for question in known_questions() if question.kind == "member"]
    for question in members:
        word, category = re.fullmatch(r"is (\w+) an? (\w+)\?", question.prompt).groups()
        assert (question.answer == "yes") == (word in CATEGORIES[category]), question
    words = [word for words in CATEGORIES.values() for word in words]
    assert len(set(words)) == len(words)  # otherwise "no" might be wrong
    assert Counter(question.answer for question in members) == {"yes": len(words), "no": len(words)}


def test_no_question_is_asked_twice_and_types_differ_from_those_about_images():
    prompts = [question.prompt for question in known_questions()]
    assert len(set(prompts)) == len(prompts)
    assert not set(TEXT_TYPES) & set(QUESTION_TYPES)
    assert {question.kind for question in known_questions()} == set(TEXT_TYPES) - set(IN_CONTEXT)


@pytest.mark.parametrize("kind", TEXT_TYPES)
def test_answers_can_be_told_apart_after_normalization(kind):
    """An article as an answer would be compared as nothing."""
    answers = {question.answer for question in (*drawn(kind), *known_questions()) if question.kind == kind}
    normalized = {answer: normalize_answer(answer) for answer in answers}
    assert all(normalized.values())
    if kind not in ("sum", "next", *IN_CONTEXT):  # there "3" and "three" are the same answer
        assert len(set(normalized.values())) == len(answers)


def test_wordings_of_an_item_are_on_one_side():
    sides = {}
    for question in (*known_questions(), *(q for kind in IN_CONTEXT for q in drawn(kind))):
        sides.setdefault(question.item, set()).add(question.split)
    assert all(len(side) == 1 for side in sides.values())
    assert {split_of(item) for item in sides} == {"train", "val", "tune"}
    both_ways = {question.split for question in known_questions() if question.item == "opposite low high"}
    assert both_ways == {"val"}


def test_captions_name_answers_that_a_validation_question_has():
    """Otherwise no clip could contradict an answer."""
    said = {*KINDS, *PITCHES, "1", "2", "3"}
    for kind in ("sum", "more", "next", "opposite", "fact", "recall"):
        val = {
            normalize_answer(q.answer)
            for q in (*known_questions(), *drawn(kind))
            if q.split == "val" and q.kind == kind
        }
        assert val & said, kind


def agrees(text):
    """Whether what a document says fits: sums, days, capitals, opposites, and who hears what."""
    found = re.findall(r"(\w+) has (\w+) \w+ \w+\. (\w+) gives (\w+) (\w+) \w+\. now (\w+) has (\w+) ", text)
    for owner, before, giver, receiver, moved, last, after in found:
        gained = receiver == owner
        if last != owner or giver == receiver or owner not in (giver, receiver):
            return False
        if value(after) != value(before) + (value(moved) if gained else -value(moved)):
            return False
    days = re.findall(r"today is (\w+)\. tomorrow is (\w+)\. on (\w+) ", text)
    if any((DAYS.index(one) + 1) % 7 != DAYS.index(other) or other != third for one, other, third in days):
        return False
    capitals = re.findall(r"lives in (\w+)\. the capital of (\w+) is (\w+)\. \w+ likes (\w+)\.", text)
    if any(a != b or CAPITALS[a] != c or c != d for a, b, c, d in capitals):
        return False
    properties = re.findall(r"is (\w+)\. the \w+ of \w+ is not (\w+)\. it is (\w+)\.", text)
    if any(a != b or (a, c) not in OPPOSITES for a, b, c in properties):
        return False
    heard = re.findall(r"plays the (\w+)\. it sounds (\w+)\. \w+ hears the (\w+) (\w+)\.", text)
    return all(a == d and b == c for a, b, c, d in heard)


def test_documents_say_nothing_that_contradicts_itself():
    rng = np.random.default_rng(7)
    documents = [sample_document(rng) for _ in range(400)]
    assert all(agrees(text) for text in documents)
    assert all(3 <= text.count(". ") + 1 <= 15 for text in documents)
    for phrase in ("now ", "tomorrow is", "capital of", "is not", "it sounds"):  # each kind of statement occurs
        assert sum(phrase in text for text in documents) > 50


def test_the_check_of_documents_finds_a_contradiction():
    """Negative control."""
    assert agrees("tom has three red balls. ann gives tom two balls. now tom has five balls.")
    for wrong in (
        "tom has three red balls. ann gives tom two balls. now tom has six balls.",
        "today is monday. tomorrow is wednesday. on wednesday tom plays the bell.",
        "tom lives in france. the capital of france is rome. tom likes rome.",
        "the cup of tom is low. the cup of ann is not low. it is soft.",
        "ann plays the bell. it sounds low. tom hears the high bell.",
    ):
        assert not agrees(wrong), wrong


def test_all_words_are_one_piece():
    tokenizer = build_tokenizer()
    rng = np.random.default_rng(7)
    texts = [sample_document(rng) for _ in range(200)]
    texts += [f"{q.prompt} {q.answer}" for kind in TEXT_TYPES for q in drawn(kind)]
    texts += [f"{question.prompt} {question.answer}" for question in known_questions()]
    for text in texts:
        pieces = tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False).input_ids)
        assert len(pieces) == len(text.split()) + text.count("?") + text.count("."), text
    vocabulary = tokenizer.get_vocab()
    assert all(f"\u2581{word}" in vocabulary for word in text_words())


def test_drawing_is_a_function_of_the_generator():
    for kind in TEXT_TYPES:
        assert drawn(kind) == drawn(kind)
    assert sample_document(np.random.default_rng(3)) == sample_document(np.random.default_rng(3))
