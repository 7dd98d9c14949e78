"""Docstrings with Sphinx's roles become Markdown."""

import pytest

from scripts.docs_site.docstrings import to_markdown


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("See :class:`Mechanism`.", "See `Mechanism`."),
        ("See :func:`~dataclasses.asdict` and :meth:`Page.open`.", "See `asdict` and `Page.open`."),
        (
            "See :func:`~safe_train.io.text_table.align`.",
            'See <autoref identifier="safe_train.io.text_table.align" optional><code>align</code></autoref>.',
        ),
        ("In this order::\n\n    a()\n", "In this order:\n\n    a()\n"),
        ("A dict ``{a: b}`` and a ratio 1:2.", "A dict ``{a: b}`` and a ratio 1:2."),
        ("C++ writes std::move in line.", "C++ writes std::move in line."),
    ],
)
def test_roles_and_literal_blocks(docstring, expected):
    assert to_markdown(docstring) == expected
