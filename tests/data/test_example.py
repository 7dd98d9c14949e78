"""Which examples are documents."""

from pathlib import Path

import pytest

from safe_train.data.example import DOCUMENT, Example


@pytest.mark.parametrize(
    ("example", "is_document"),
    [
        (Example("d", "", ("A text.",), kind=DOCUMENT), True),
        (Example("q", "What?", ("A text.",), kind=DOCUMENT), False),
        (Example("i", "", ("A text.",), image=Path("a.png"), kind=DOCUMENT), False),
        (Example("t", "", ("A text.",), kind="text"), False),
    ],
)
def test_a_document_is_a_text_that_nothing_was_asked_for(example, is_document):
    assert example.is_document == is_document
