"""What guessing scores: expected values by hand."""

import pytest

from safe_train.data.example import Example
from safe_train.evaluation.majority_baseline import majority_scores


def asked(*answers, kind="k", clusters=None):
    return [
        Example(f"{kind}{k}", "?", answer if isinstance(answer, tuple) else (answer,), kind=kind,
            cluster=clusters[k] if clusters else f"{kind}{k}")
        for k, answer in enumerate(answers)
    ]  # fmt: skip


def test_guessing_names_the_most_common_answer_of_the_kind():
    rows = [*asked("yes", "yes", "Yes.", "no", "yes"), *asked("2", "2", "2", "3", kind="count")]
    assert majority_scores(rows) == [1, 1, 1, 0, 1, 1, 1, 1, 0]


def test_a_row_s_own_cluster_does_not_help_to_guess_it():
    """All questions about one image have one answer, which nobody else gives."""
    clusters = [*"aaaa", "b", "c", "d"]
    assert majority_scores(asked(*["cat"] * 4, *["dog"] * 3, clusters=clusters)) == [0] * 7
    assert majority_scores(asked(*["cat"] * 4, *["dog"] * 2)) == [1] * 4 + [0] * 2  # negative control: images apart
    assert majority_scores(asked("cat")) == majority_scores(asked("cat", "cat", clusters=["a", "a"]))[:1] == [0]


def test_answers_that_are_equally_common_are_guessed_in_turn():
    """By hand: of 10 yes and 10 no, leaving a row out makes its own answer the rarer; guessing is still right half."""
    assert majority_scores(asked(*["yes"] * 10, *["no"] * 10)) == [0.5] * 20
    three = majority_scores(asked(*["a"] * 4, *["b"] * 4, *["c"] * 4))
    assert three == pytest.approx([1 / 3] * 12)


def test_answers_that_nobody_shares_cannot_be_guessed_in_any_time():
    assert majority_scores(asked(*map(str, range(3_000)))) == [0.0] * 3_000


def test_guesses_are_scored_like_answers():
    """Ten people: seven say red, three say blue; the others' majority is blue, worth 3 of 3 for most of them."""
    people = ("red",) * 7 + ("blue",) * 3
    rows = asked(people, "blue", "blue")
    assert majority_scores(rows)[0] == pytest.approx((7 * 1 + 3 * 2 / 3) / 10)


def test_references_that_all_agree_are_normalized_like_the_guess():
    """The official metric leaves them as they are, so that "Yes." would never be right."""
    rows = asked(("Yes.",) * 10, ("Yes.",) * 10, "yes", ("No!",) * 10)
    assert majority_scores(rows) == [1, 1, 1, 0]
