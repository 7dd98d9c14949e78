"""English contractions that are written without their apostrophe, as the evaluation of VQA v2 mends them."""

from __future__ import annotations

_STEMS_BY_ENDING = {
    "n't": "ai are ca could did does do had has have is might must need ought sha should was were wo would",
    "'ve": "could might must not should they we what where who would you",
    "'d": "he how it someone something there they where who you",
    "'ll": "how it somebody someone something they what who why y'all you",
    "'s": "he how somebody someone that there what when where who why",
    "'re": "there they what why you",
    "n't've": "could had might should would",
    "'d've": "he it she somebody someone something there they we who y'all you",
}
_OTHERS = ("ma'am", "o'clock", "'twas", "y'all", "'ow's'at")


def _contractions() -> dict[str, str]:
    """Each contraction by every spelling of it that lacks exactly one apostrophe.

    That rule gives the published table but for one entry, which takes an apostrophe away, and without the entries that
    cannot act: "let's" and "she's" stand for themselves, and those with a capital "I" never meet a lower-case word.
    """
    words = [stem + ending for ending, stems in _STEMS_BY_ENDING.items() for stem in stems.split()]
    table = {
        word[:index] + word[index + 1 :]: word
        for word in (*words, *_OTHERS)
        for index, letter in enumerate(word)
        if letter == "'"
    }
    return table | {"somebody'd": "somebodyd"}


CONTRACTIONS = _contractions()
"""Contractions by misspelling, all in lower case: ``CONTRACTIONS["dont"] == "don't"``."""
