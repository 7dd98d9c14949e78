"""Draws Mermaid flowcharts as SVG when the site is built, so that no page needs a script or the network.

Read is the part of Mermaid's language that the pages use: ``flowchart TB``, nodes ``id["line<br>line"]``, edges ``-->``
and ``-.->`` with ``|labels|``, chains of them, and ``:::class``. Anything else is an error, which ends a build.
Colors are the theme's, by the classes in ``docs/assets/site.css``. Source of the language: https://mermaid.js.org/syntax/flowchart.html.
"""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

CHARACTER = 6.9
"""Width of a character of 12 px in the font of code, in px; the lines of a node are measured by it."""
LINE, PADDING, GAP_X, GAP_Y, MARGIN = 17.0, 10.0, 22.0, 40.0, 4.0

_NODE = re.compile(r'(\w+)(?:\["([^"]*)"\])?(?::::(\w+))?')
_EDGE = re.compile(r"\s*(-->|-\.->)(?:\|([^|]*)\|)?\s*")
_ARROW = (
    '<defs><marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
    'orient="auto-start-reverse"><path class="arrow" d="M0 0 10 5 0 10z"/></marker></defs>'
)


@dataclass
class Node:
    """A box, or where ``lines`` is empty a bend of a long edge; ``x`` and ``y`` are its center in px."""

    lines: tuple[str, ...] = ()
    kind: str = ""
    rank: int = 0
    x: float = 0.0
    y: float = 0.0

    @property
    def width(self) -> float:
        """Width in px."""
        return max((len(line) for line in self.lines), default=0) * CHARACTER + (2 * PADDING if self.lines else 0.0)

    @property
    def height(self) -> float:
        """Height in px."""
        return len(self.lines) * LINE + (2 * PADDING if self.lines else 0.0)


@dataclass
class Edge:
    """An arrow through the nodes named in ``path``, of which all but the ends are bends."""

    path: list[str]
    label: str = ""
    is_dashed: bool = False


@dataclass
class Flowchart:
    """Nodes by name, in the order in which they are first named, and edges."""

    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)


def draw(source: str, title: str = "") -> str:
    """The SVG of a flowchart.

    Raises:
        ValueError: a line is not understood, or the edges run in a circle.
    """
    chart = parse(source)
    _rank(chart)
    _bend_long_edges(chart)
    width, height = _place(chart)
    parts = [*_draw_edges(chart), *_draw_nodes(chart)]
    name = html.escape(title, quote=True)
    return (
        f'<div class="flowchart"><svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'style="width:{width:.0f}px" role="img" aria-label="{name}">{_ARROW}{"".join(parts)}</svg></div>'
    )


def parse(source: str) -> Flowchart:
    """Reads a flowchart."""
    first, *lines = [line.strip() for line in source.strip().splitlines()]
    if first != "flowchart TB":
        raise ValueError(f"expected flowchart TB in the first line, got {first!r}")
    chart = Flowchart()
    for line in lines:
        if line and not line.startswith("%%") and not line.startswith("classDef "):
            _parse_line(chart, line)
    if undeclared := [name for name, node in chart.nodes.items() if not node.lines]:
        raise ValueError(f'expected a label for each node, as in {undeclared[0]}["label"], got none')
    return chart


def _parse_line(chart: Flowchart, line: str) -> None:
    place, before, edge = 0, "", None
    while place < len(line):
        if not (node := _NODE.match(line, place)):
            raise ValueError(f"expected a node at {line[place:]!r} of {line!r}")
        name, label, kind = node.groups()
        known = chart.nodes.setdefault(name, Node())
        known.lines = tuple(label.split("<br>")) if label else known.lines
        known.kind = kind or known.kind
        if edge:
            chart.edges.append(Edge([before, name], edge[2] or "", edge[1] == "-.->"))
        before, place = name, node.end()
        if place < len(line):
            if not (edge := _EDGE.match(line, place)):
                raise ValueError(f"expected --> or -.-> at {line[place:]!r} of {line!r}")
            place = edge.end()


def _rank(chart: Flowchart) -> None:
    """A node stands one row below the lowest of those that point to it."""
    for _ in chart.nodes:
        changed = False
        for edge in chart.edges:
            start, end = (chart.nodes[name] for name in edge.path)
            if end.rank <= start.rank:
                end.rank, changed = start.rank + 1, True
        if not changed:
            return
    if chart.edges:
        raise ValueError("expected edges that lead downwards, got a circle")


def _bend_long_edges(chart: Flowchart) -> None:
    """Puts a bend into each row that an edge crosses, so that rows make room for it."""
    for number, edge in enumerate(chart.edges):
        start, end = edge.path
        bends = [f"bend {number} {rank}" for rank in range(chart.nodes[start].rank + 1, chart.nodes[end].rank)]
        for rank, bend in enumerate(bends, start=chart.nodes[start].rank + 1):
            chart.nodes[bend] = Node(rank=rank)
        edge.path = [start, *bends, end]


def _place(chart: Flowchart) -> tuple[float, float]:
    """Sets every center, row by row, a row in the order of what points to it; returns the size of the drawing."""
    rows = [[name for name, node in chart.nodes.items() if node.rank == rank] for rank in range(_num_rows(chart))]
    for above, row in itertools.pairwise(rows):
        row.sort(key=lambda name: _mean_position(chart, name, above))
    widths = [sum(chart.nodes[name].width for name in row) + GAP_X * (len(row) - 1) for row in rows]
    total, y = max(widths) + 2 * MARGIN, MARGIN
    for row, width in zip(rows, widths, strict=True):
        x, height = (total - width) / 2, max(chart.nodes[name].height for name in row)
        for name in row:
            node = chart.nodes[name]
            node.x, node.y = x + node.width / 2, y + height / 2
            x += node.width + GAP_X
        y += height + GAP_Y
    return total, y - GAP_Y + MARGIN


def _num_rows(chart: Flowchart) -> int:
    return max(node.rank for node in chart.nodes.values()) + 1


def _mean_position(chart: Flowchart, name: str, above: list[str]) -> float:
    sources = [start for edge in chart.edges for start, end in itertools.pairwise(edge.path) if end == name]
    return sum(above.index(start) for start in sources if start in above) / len(sources) if sources else len(above)


def _draw_edges(chart: Flowchart) -> Iterator[str]:
    for edge in chart.edges:
        nodes = [chart.nodes[name] for name in edge.path]
        x, y = nodes[0].x, nodes[0].y + nodes[0].height / 2
        path = f"M{x:.1f} {y:.1f}"
        for node in nodes[1:]:
            top = node.y - node.height / 2
            middle = (y + top) / 2
            path += f"C{x:.1f} {middle:.1f} {node.x:.1f} {middle:.1f} {node.x:.1f} {top:.1f}"
            x, y = node.x, top
        dashed = " dashed" if edge.is_dashed else ""
        yield f'<path class="edge{dashed}" d="{path}" marker-end="url(#arrow)"/>'
        if edge.label:
            end = nodes[1]
            start_y, end_y = nodes[0].y + nodes[0].height / 2, end.y - end.height / 2
            yield (
                f'<text class="label" x="{(nodes[0].x + end.x) / 2:.1f}" y="{(start_y + end_y) / 2 + 4:.1f}">'
                f"{html.escape(edge.label)}</text>"
            )


def _draw_nodes(chart: Flowchart) -> Iterator[str]:
    for node in chart.nodes.values():
        if not node.lines:
            continue
        left, top = node.x - node.width / 2, node.y - node.height / 2
        yield (
            f'<rect class="node {node.kind}" x="{left:.1f}" y="{top:.1f}" width="{node.width:.1f}" '
            f'height="{node.height:.1f}" rx="5"/>'
        )
        for number, line in enumerate(node.lines):
            kind = "first" if number == 0 else "more"
            y = top + PADDING + LINE * (number + 0.75)
            yield f'<text class="{kind}" x="{node.x:.1f}" y="{y:.1f}">{html.escape(html.unescape(line))}</text>'
