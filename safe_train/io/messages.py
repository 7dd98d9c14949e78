"""Text from outside in messages: on one line, without what would steer a terminal, and not longer than it helps."""

from __future__ import annotations

import unicodedata
from reprlib import Repr
from typing import Any

LONGEST = 160
"""Characters of a name or a value that messages show."""

_LONGEST_VALUE = 60

# Control characters, halves of characters, and line and paragraph separators.
_HIDDEN = {"Cc", "Cs", "Zl", "Zp"}
# Embeddings, overrides and isolates, which let text read in another order than it is.
_REORDERING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}

_repr = Repr()
_repr.maxlevel = 3
_repr.maxstring = _repr.maxother = _repr.maxlong = _LONGEST_VALUE


def one_line(text: str) -> str:
    r"""The text with blanks for line breaks and tabs, and ``\x1b`` and the like for what is not seen."""
    return "".join(map(_seen, " ".join(text.replace("\t", " ").splitlines())))


def shortened(text: str, limit: int = LONGEST) -> str:
    """The text, or its beginning and how long it is."""
    return text if len(text) <= limit else f"{text[: limit // 2]}... ({len(text):,} characters)"


def value_shown(value: Any) -> str:
    """A JSON value or its beginning, however deep, long or large it is."""
    text = _repr.repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


def typed(value: Any) -> str:
    """The same behind its type."""
    return f"{type(value).__name__} {value_shown(value)}"


def _seen(character: str) -> str:
    if unicodedata.category(character) in _HIDDEN or unicodedata.bidirectional(character) in _REORDERING:
        return character.encode("unicode_escape").decode("ascii")
    return character
