"""Tables and paragraphs as plain text that fits a terminal."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence

TERMINAL_WIDTH = 80
"""Columns of the narrowest terminal in use, and of text in files."""

_GAP = "  "


def terminal_width() -> int:
    """Columns of the terminal; :data:`TERMINAL_WIDTH` where standard output is none and ``COLUMNS`` is not set."""
    return max(shutil.get_terminal_size((TERMINAL_WIDTH, 24)).columns, 40)


def align(header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None) -> list[str]:
    """Lines of a table: header, rule and rows, columns two spaces apart.

    A table wider than ``width`` is split between columns into blocks below each other, with a blank line between them;
    each begins with the first column. No cell is ever broken: a block of two columns may be wider.

    Args:
        header: names of the columns.
        rows: cells, as many as the header has.
        width: columns of the terminal; None for a table in one piece.
    """
    widths = [max(len(line[column]) for line in (header, *rows)) for column in range(len(header))]
    blocks = _split(widths, width)
    lines: list[str] = []
    for number, columns in enumerate(blocks):
        lines += [""] if number else []
        rule = _GAP.join("-" * widths[column] for column in columns)
        head, *body = (
            _GAP.join(line[column].ljust(widths[column]) for column in columns).rstrip() for line in (header, *rows)
        )
        lines += [head, rule, *body]
    return lines


def _split(widths: Sequence[int], width: int | None) -> list[list[int]]:
    """Columns of each block."""
    blocks = [[0]]
    used = widths[0]
    for column in range(1, len(widths)):
        needed = len(_GAP) + widths[column]
        if width is not None and used + needed > width and len(blocks[-1]) > 1:
            blocks.append([0])
            used = widths[0]
        blocks[-1].append(column)
        used += needed
    return blocks


def wrap(text: str, width: int = TERMINAL_WIDTH) -> list[str]:
    """Lines of a paragraph; words are never broken."""
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
