"""VQA accuracy against its definition, and against accuracies worked out by hand."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_train.metrics.vqa_accuracy import exact_match, normalize_answer, vqa_accuracy


def by_subsets(prediction, references):
    """The definition: over all subsets of nine of the ten answers, the mean of min(1, matches / 3)."""
    subsets = list(combinations(references, len(references) - 1))
    return sum(min(1.0, subset.count(prediction) / 3) for subset in subsets) / len(subsets)


@pytest.mark.parametrize(
    ("matches", "expected"),
    # With m of ten matching, m subsets leave one of them out: (m * min(1, (m-1)/3) + (10-m) * min(1, m/3)) / 10.
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)],
)
def test_ten_answers_by_hand(matches, expected):
    references = ["yes"] * matches + ["no"] * (10 - matches)
    assert vqa_accuracy("yes", references) == pytest.approx(expected, abs=1e-12)


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
    ],
)
def test_normalization(answer, normalized):
    assert normalize_answer(answer) == normalized


@given(answer=st.text(alphabet="abc the.two,5-?! ", max_size=20))
def test_a_normalized_answer_has_single_spaces_and_no_articles(answer):
    words = normalize_answer(answer).split(" ")
    assert words == [""] or all(word and word not in {"a", "an", "the"} for word in words)


def test_predictions_and_references_are_normalized_alike():
    assert vqa_accuracy("The TWO.", ["2"] * 10) == 1.0
    assert vqa_accuracy("2", ["two"] * 10) == 1.0
    assert vqa_accuracy("3", ["two"] * 10) == 0.0


@pytest.mark.parametrize(
    ("prediction", "references", "expected"),
    [
        ("Two low bell sounds.", ["two low bell sounds"], 1.0),
        ("two low bell sounds", ["one low drum sound", "2 low bell sounds"], 1.0),
        ("two low bell", ["two low bell sounds"], 0.0),
        ("", ["two low bell sounds"], 0.0),
    ],
)
def test_exact_match(prediction, references, expected):
    assert exact_match(prediction, references) == expected
