"""Exact match: any reference, after the normalization of VQA."""

import pytest

from safe_train.metrics.exact_match import exact_match


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
