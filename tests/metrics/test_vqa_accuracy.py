"""VQA accuracy against its definition, the examples of its authors, and accuracies worked out by hand."""

import hashlib
import re
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_train.metrics.contractions import CONTRACTIONS
from safe_train.metrics.vqa_accuracy import normalize_answer, vqa_accuracy

# SHA-256 of the 114 effective entries of the table in the evaluation code of visualqa.org (revision a013f00), sorted,
# one "misspelling contraction" a line. Left out are the two that map to themselves and the four with a capital I.
PUBLISHED_TABLE = "f2c800b1132e79302dd72686ce8bba16120f1873f98a85561222e89317336e7a"

NUMBERS = ["none", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
MESSY = st.text(alphabet="Aabot2,. -/'?!()\t\n", max_size=24) | st.lists(
    st.sampled_from(
        ["a", "The", "two", "None", "dont", "wouldnt've", "1,000", "3.5", "p.m.", "red-brown", ", ", " ?", "\n"]
    )
).map(" ".join)


def by_subsets(prediction, references):
    """The definition: over all subsets of nine of the ten answers, the mean of min(1, matches / 3)."""
    subsets = list(combinations(references, len(references) - 1))
    return sum(min(1.0, subset.count(prediction) / 3) for subset in subsets) / len(subsets)


def by_characters(answer):
    """The normalization again, as one pass over characters and one over words."""
    text = re.sub(r"[\n\t]", " ", answer).strip()
    vanishing = {mark for mark in set(text) if mark + " " in text or " " + mark in text}
    has_thousands = any(
        a.isdigit() and b == "," and c.isdigit() for a, b, c in zip(text, text[1:], text[2:], strict=False)
    )
    spaced = ""
    for mark in text:
        if mark.isalnum() or mark in " '.:%$":
            spaced += mark
        elif not has_thousands and mark not in vanishing:
            spaced += " "
    kept = "".join(
        mark for mark, following in zip(spaced, f"{spaced[1:]} ", strict=False) if mark != "." or following.isdigit()
    )
    words = []
    for word in kept.lower().split():
        if word in NUMBERS:
            word = str(max(0, NUMBERS.index(word) - 1))
        if word not in ("a", "an", "the"):
            words.append(CONTRACTIONS.get(word, word))
    return " ".join(words)


def by_definition(prediction, references):
    """Both together: nothing is normalized where all references are one text."""
    trimmed = [re.sub(r"[\n\t]", " ", text).strip() for text in (prediction, *references)]
    texts = trimmed if len(set(trimmed[1:])) == 1 else [by_characters(text) for text in trimmed]
    return by_subsets(texts[0], texts[1:])


@pytest.mark.parametrize(
    ("matches", "expected"),
    # With m of ten matching, m subsets leave one of them out: (m * min(1, (m-1)/3) + (10-m) * min(1, m/3)) / 10.
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)],
)
def test_ten_answers_by_hand(matches, expected):
    references = ["yes"] * matches + ["no"] * (10 - matches)
    assert vqa_accuracy("yes", references) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(
    prediction=st.sampled_from("wxyz"),
    references=st.lists(st.sampled_from("wxyz"), min_size=10, max_size=10),
)
def test_ten_answers_by_brute_force(prediction, references):
    assert vqa_accuracy(prediction, references) == pytest.approx(by_subsets(prediction, references), abs=1e-12)


def test_the_brute_force_tells_the_common_shortcut_from_the_definition():
    """Negative control: min(1, matches / 3) over all ten answers is another number."""
    references = ["yes"] * 2 + ["no"] * 8
    assert min(1.0, references.count("yes") / 3) != pytest.approx(by_subsets("yes", references), abs=1e-3)


@settings(deadline=None)
@given(references=st.permutations(["a", "a", "b", "c", "c", "c", "d", "e", "f", "g"]))
def test_the_order_of_the_references_does_not_matter(references):
    assert vqa_accuracy("c", references) == pytest.approx(0.9, abs=1e-12)


@pytest.mark.parametrize(("references", "expected"), [(["dog"], 1.0), (["cat", "dog"], 1.0), (["cat"] * 3, 0.0)])
def test_with_too_few_references_for_three_others_any_match_counts(references, expected):
    assert vqa_accuracy("dog", references) == expected


def test_without_references_there_is_no_accuracy():
    with pytest.raises(ValueError, match="at least one answer"):
        vqa_accuracy("yes", [])


@pytest.mark.parametrize(
    ("answer", "normalized"),
    # From the rules of the VQA v2 evaluation, applied by hand.
    [
        ("Yes", "yes"),
        ("  the  Red\tcar\n", "red car"),
        ("an apple and a pear", "apple and pear"),
        ("two", "2"),
        ("TEN", "10"),
        ("none", "0"),
        ("one hundred", "1 hundred"),
        ("yes.", "yes"),
        ("10 a.m.", "10 am"),
        ("U.S.A.", "usa"),
        ("3.5", "3.5"),
        (".5", ".5"),
        ("1,000", "1000"),
        ("1,000,000", "1000000"),
        ("red,blue", "red blue"),
        ("red, blue", "red blue"),
        ("red/blue", "red blue"),
        ("t-shirt", "t shirt"),
        ("t-shirt - red", "tshirt red"),
        ("what?!", "what"),
        ("it's", "it's"),
        ("50%", "50%"),
        ("$5", "$5"),
        ("café", "café"),
        ("a", ""),
        ("", ""),
        # From the description of the evaluation on visualqa.org.
        ("dont", "don't"),
        ("girl's", "girl's"),
        ("2:50 pm", "2:50 pm"),
        ("100,978", "100978"),
        # Of the contractions, one by each ending, and the odd ones.
        ("Isnt", "isn't"),
        ("theyve", "they've"),
        ("someoned", "someone'd"),
        ("it'll", "it'll"),
        ("itll", "it'll"),
        ("whos", "who's"),
        ("youre", "you're"),
        ("couldn'tve", "couldn't've"),
        ("couldnt've", "couldn't've"),
        ("couldntve", "couldntve"),
        ("shed've", "she'd've"),
        ("y'alldve", "y'alldve"),
        ("y'alld've", "y'all'd've"),
        ("oclock", "o'clock"),
        ("twas a dog", "'twas dog"),
        ("somebody'd", "somebodyd"),
        ("Im", "im"),
        ("wed", "wed"),
        ("shes", "shes"),
    ],
)
def test_normalization(answer, normalized):
    assert normalize_answer(answer) == normalized


def test_the_table_of_contractions_is_the_published_one():
    lines = [f"{misspelling} {contraction}" for misspelling, contraction in sorted(CONTRACTIONS.items())]
    assert len(lines) == 114
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == PUBLISHED_TABLE


@settings(deadline=None)
@given(answer=MESSY)
def test_normalization_by_another_implementation(answer):
    assert normalize_answer(answer) == by_characters(answer)


@settings(deadline=None)
@given(data=st.data())
def test_accuracy_by_another_implementation(data):
    answers = data.draw(st.lists(MESSY, min_size=1, max_size=4))
    references = data.draw(st.lists(st.sampled_from(answers), min_size=10, max_size=10))
    prediction = data.draw(st.sampled_from(answers) | MESSY)
    assert vqa_accuracy(prediction, references) == pytest.approx(by_definition(prediction, references), abs=1e-12)


def test_the_other_implementation_tells_the_published_code_from_its_description():
    """Negative control: a comma goes between digits and is a space elsewhere, as the description of the rules says."""

    def by_description(answer):
        return " ".join(re.sub(r"(?<=\d),(?=\d)", "", answer).replace(",", " ").split())

    assert by_characters("1,000 red,blue") == "1000 redblue"
    assert by_description("1,000 red,blue") == "1000 red blue"


@settings(deadline=None)
@given(answer=st.text(alphabet="abc the.two,5-?! ", max_size=20))
def test_a_normalized_answer_has_single_spaces_and_no_articles(answer):
    words = normalize_answer(answer).split(" ")
    assert words == [""] or all(word and word not in {"a", "an", "the"} for word in words)


def test_predictions_and_references_are_normalized_alike():
    assert vqa_accuracy("The TWO.", ["2"] * 9 + ["3"]) == 1.0
    assert vqa_accuracy("2", ["two"] * 9 + ["3"]) == 1.0
    assert vqa_accuracy("4", ["two"] * 9 + ["3"]) == 0.0


@pytest.mark.parametrize(
    ("prediction", "reference", "verbatim", "normalized"),
    [
        ("yes", "yes", 1.0, 1.0),
        ("Yes.", "yes", 0.0, 1.0),
        (" yes\n", "yes", 1.0, 1.0),
        ("The A Team", "The A Team", 1.0, 1.0),
        ("team", "The A Team", 0.0, 1.0),
        ("2", "two", 0.0, 1.0),
        ("3", "two", 0.0, 0.0),
    ],
)
def test_where_all_references_are_one_text_nothing_is_normalized(prediction, reference, verbatim, normalized):
    references = [reference] * 9 + [f" {reference}\t"]
    assert vqa_accuracy(prediction, references) == verbatim
    assert vqa_accuracy(prediction, references, normalize_unanimous=True) == normalized


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_references_are_always_normalized(count):
    assert vqa_accuracy("Yes.", ["yes"] * count) == 1.0


def test_references_that_only_normalization_makes_equal_are_normalized():
    assert vqa_accuracy("Yes.", ["yes"] * 9 + ["Yes"]) == 1.0
