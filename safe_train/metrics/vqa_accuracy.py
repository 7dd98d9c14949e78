"""VQA accuracy: an answer counts in full when at least three of the other annotators gave it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from safe_train.metrics.contractions import CONTRACTIONS

_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {word: str(value) for value, word in enumerate(_NUMBER_WORDS)} | {"none": "0"}
_ARTICLES = frozenset({"a", "an", "the"})
_PUNCTUATION = ';/[]"{}()=+\\_-<>@`,?!'
_THOUSANDS_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")

# The published code gives re.UNICODE, which is 32, where re.sub takes the largest number of replacements.
_MAX_PERIODS = 32


def normalize_answer(answer: str) -> str:
    r"""An answer in the form in which answers are compared, step for step as the evaluation of VQA v2 does it.

    1. Line breaks and tabs become spaces; spaces at the ends go.
    2. Of the marks ``; / [ ] " { } ( ) = + \ _ - > < @ ` , ? !`` each goes where it stands beside a space anywhere in
       the answer, or where the answer has a comma between digits; else it becomes a space.
    3. A period goes unless a digit follows.
    4. Lower case, single spaces, number words (``none`` and ``zero`` to ``ten``) as digits, no articles.
    5. Contractions without their apostrophe get it back: ``dont`` becomes ``don't``.

    Source: the evaluation code of visualqa.org (Antol et al. 2015, arXiv:1505.00468; Goyal et al. 2017,
    arXiv:1612.00837), revision a013f00 of GT-Vision-Lab/VQA.
    """
    text = _strip(answer)
    joined = _THOUSANDS_COMMA.search(text) is not None
    separated = text
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        separated = separated.replace(mark, "" if joined or beside_space else " ")
    words = _PERIOD.sub("", separated, count=_MAX_PERIODS).lower().split()
    kept = (word for word in (_DIGITS.get(word, word) for word in words) if word not in _ARTICLES)
    return " ".join(CONTRACTIONS.get(word, word) for word in kept)


def vqa_accuracy(prediction: str, references: Sequence[str], *, normalize_unanimous: bool = False) -> float:
    """Accuracy of one answer by the rules of VQA v2, in 0..1.

    ``mean_i min(1, |{j != i : reference_j = prediction}| / 3)`` over the references i, ten in VQA v2: the average over
    all ways to leave one annotator out. With fewer than four references nobody could reach 1; any match then counts in
    full. VQA v2 has no such question.

    Answers are compared as :func:`normalize_answer` makes them, with one exception of the published evaluation: where
    all (four or more) references are the same text, none is normalized and the prediction must equal it letter for
    letter, so that text read from an image stays as it is. "Yes." is then wrong where ten people wrote "yes". Results
    published for models that answer in sentence case are commonly of predictions normalized beforehand:
    ``vqa_accuracy(normalize_answer(prediction), references)``.

    Args:
        prediction: the answer to score.
        references: the annotators' answers, at least one.
        normalize_unanimous: normalize also where all references are the same text. Not the published rule.

    Raises:
        ValueError: there is no reference.
    """
    if not references:
        raise ValueError("references: expected at least one answer, got none")
    few = len(references) < 4
    unanimous = not few and len({_strip(reference) for reference in references}) == 1
    form = _strip if unanimous and not normalize_unanimous else normalize_answer
    predicted = form(prediction)
    matches = [form(reference) == predicted for reference in references]
    if few:
        return float(any(matches))
    total = sum(matches)
    return sum(min(1.0, (total - match) / 3) for match in matches) / len(matches)


def _strip(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()
