"""A Griffe extension: docstrings are written with Sphinx's roles, and the site is Markdown."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):`(~?)([^`<>]+)`")
_LITERAL_BLOCK = re.compile(r"::[ ]*$", re.MULTILINE)


class SphinxRoles(griffe.Extension):
    """Writes what has a role, such as a class, as code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Translates a docstring before it is parsed."""
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)


def to_markdown(text: str) -> str:
    """A docstring in which roles are code spans, and a literal block follows a single colon."""
    return _LITERAL_BLOCK.sub(":", _ROLE.sub(_code, text))


def _code(role: re.Match[str]) -> str:
    tilde, target = role.groups()
    return f"`{target.rpartition('.')[2] if tilde else target}`"
