"""Token F1 against values worked out by hand and against the definition on lists."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_train.metrics.exact_match import exact_match
from safe_train.metrics.token_f1 import token_f1

WORDS = st.lists(st.sampled_from(["red", "dog", "barks", "loud"]), max_size=6)


def by_removal(prediction, reference):
    """Precision and recall, each shared word taken out of the reference once."""
    rest = list(reference)
    shared = 0
    for word in prediction:
        if word in rest:
            rest.remove(word)
            shared += 1
    if shared == 0:
        return float(not prediction and not reference)
    precision, recall = shared / len(prediction), shared / len(reference)
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize(
    ("prediction", "references", "expected"),
    [
        ("a red dog", ["The red dog."], 1.0),
        ("red dog", ["red cat"], 0.5),
        ("red dog barks", ["red dog"], 0.8),  # precision 2/3, recall 1
        ("dog dog dog", ["dog"], 0.5),  # precision 1/3, recall 1: a repeated word counts once
        ("two dogs", ["2 dogs"], 1.0),
        ("cat", ["dog"], 0.0),
        ("red dog", ["cat", "dog", "red dog barks"], 0.8),
        ("", ["dog"], 0.0),
        ("dog", ["the"], 0.0),
        ("the", ["a"], 1.0),
    ],
)
def test_by_hand(prediction, references, expected):
    assert token_f1(prediction, references) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(prediction=WORDS, reference=WORDS)
def test_by_precision_and_recall(prediction, reference):
    expected = by_removal(prediction, reference)
    assert token_f1(" ".join(prediction), [" ".join(reference)]) == pytest.approx(expected, abs=1e-12)
    assert token_f1(" ".join(reference), [" ".join(prediction)]) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(prediction=WORDS, references=st.lists(WORDS, min_size=1, max_size=3))
def test_an_exact_match_has_f1_1(prediction, references):
    texts = [" ".join(reference) for reference in references]
    if exact_match(" ".join(prediction), texts):
        assert token_f1(" ".join(prediction), texts) == 1.0


def test_the_definition_tells_sets_from_multisets():
    """Negative control: without counting repetitions, "dog dog dog" would be all of "dog"."""
    assert 2 * len({"dog"}) / (len({"dog"}) + len({"dog"})) == 1.0
    assert by_removal(["dog"] * 3, ["dog"]) == 0.5


def test_without_references_there_is_no_f1():
    with pytest.raises(ValueError, match="at least one answer"):
        token_f1("dog", [])
