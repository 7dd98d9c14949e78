"""A Griffe extension: docstrings are written with Sphinx's roles, and the site is Markdown."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):`(~?)([^`<>]+)`")
_OURS = ("safe_train.", "safe_kernels.", "configs.")
_LITERAL_BLOCK = re.compile(r"::[ ]*$", re.MULTILINE)


class SphinxRoles(griffe.Extension):
    """Writes what has a role, such as a class, as code; an absolute name is a link where some page documents it."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Translates a docstring before it is parsed."""
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)


def to_markdown(text: str) -> str:
    """A docstring in which roles are code spans or links, and a literal block follows a single colon."""
    return _LITERAL_BLOCK.sub(":", _ROLE.sub(_code, text))


def _code(role: re.Match[str]) -> str:
    tilde, target = role.groups()
    shown = target.rpartition(".")[2] if tilde else target
    if not target.startswith(_OURS):
        return f"`{shown}`"
    return f'<autoref identifier="{target}" optional><code>{shown}</code></autoref>'
