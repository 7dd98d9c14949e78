"""VQA accuracy: an answer counts in full when at least three of the other annotators gave it."""

from __future__ import annotations

import re
from collections.abc import Sequence

_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {word: str(value) for value, word in enumerate(_NUMBER_WORDS)} | {"none": "0"}
_ARTICLES = frozenset({"a", "an", "the"})
_PUNCTUATION = ';/[]"{}()=+\\_-<>@`,?!'
_THOUSANDS_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")


def normalize_answer(answer: str) -> str:
    """An answer in the form in which answers are compared.

    Lower case, number words as digits, no articles, single spaces. A punctuation mark goes where it stands beside a
    space anywhere in the answer, or where the answer has a thousands comma; else it becomes a space. A period goes
    unless a digit follows.

    Source: the evaluation of VQA v2 (Antol et al. 2015, arXiv:1505.00468; Goyal et al. 2017, arXiv:1612.00837). Its
    table of misspelled contractions ("dont" for "don't") is not applied.
    """
    text = " ".join(answer.lower().split())
    joined = _THOUSANDS_COMMA.search(text) is not None
    separated = text
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        separated = separated.replace(mark, "" if joined or beside_space else " ")
    words = (_DIGITS.get(word, word) for word in _PERIOD.sub("", separated).split())
    return " ".join(word for word in words if word not in _ARTICLES)


def vqa_accuracy(prediction: str, references: Sequence[str]) -> float:
    """Mean over references i of ``min(1, matches among the others / 3)``, in 0..1; with fewer than four, any match.

    Raises:
        ValueError: there is no reference.
    """
    if not references:
        raise ValueError("references: expected at least one answer, got none")
    predicted = normalize_answer(prediction)
    matches = [normalize_answer(reference) == predicted for reference in references]
    if len(matches) < 4:
        return float(any(matches))
    total = sum(matches)
    return sum(min(1.0, (total - match) / 3) for match in matches) / len(matches)


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1 if the prediction equals a reference after normalization, else 0."""
    predicted = normalize_answer(prediction)
    return float(any(normalize_answer(reference) == predicted for reference in references))
