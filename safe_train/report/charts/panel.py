"""One chart as inline SVG: axes, lines, points with intervals. Colors come from the page's style sheet."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from markupsafe import Markup

from safe_train.report.charts.scales import Scale

APART = 5.0
"""Units between points that would else stand at one place, so that no interval hides another."""

COLORS = 8
"""Colors in the style sheet; further series repeat them with another marker and dashes."""

_MARKERS = (
    "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0z",  # circle
    "M-3.6,-3.6h7.2v7.2h-7.2z",  # square
    "M0,-4.8L4.6,3.4H-4.6z",  # triangle
    "M0,-5L5,0L0,5L-5,0z",  # diamond
    "M0,4.8L4.6,-3.4H-4.6z",  # triangle, point down
    "M-1.5,-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",  # plus
    "M0,-5L4.8,-1.5L2.9,4.1H-2.9L-4.8,-1.5z",  # pentagon
    "M-4.4,-2.4L-2.4,-4.4L0,-2L2.4,-4.4L4.4,-2.4L2,0L4.4,2.4L2.4,4.4L0,2L-2.4,4.4L-4.4,2.4L-2,0z",  # cross
    "M-4.6,-4.6L0,0L4.6,-4.6V4.6L0,0L-4.6,4.6z",  # hourglass
)


@dataclass(frozen=True)
class Look:
    """How a series is told from others: color, and for those who do not see it, marker and dashes.

    Attributes:
        number: of the series.
        control: whether it is a positive control, which is gray.
    """

    number: int
    control: bool = False

    @property
    def css(self) -> str:
        """Its classes in the style sheet."""
        color = "control" if self.control else f"c{self.number % COLORS}"
        return f"{color} dashed" if self.control or self.number >= COLORS else color

    @property
    def marker(self) -> str:
        """Path of its marker around the origin, 10 units wide."""
        return _MARKERS[self.number % len(_MARKERS)]


def swatch(look: Look) -> Markup:
    """A small marker for tables and legends."""
    return Markup('<svg class="swatch {}" viewBox="-6 -6 12 12" aria-hidden="true"><path d="{}"/></svg>').format(
        look.css, look.marker
    )


@dataclass(frozen=True)
class Point:
    """A value with its interval, in the values of the axes.

    Attributes:
        x: across.
        y: up.
        x_limits: of ``x``, or None.
        y_limits: of ``y``, or None.
        label: told when pointed at.
    """

    x: float
    y: float
    x_limits: tuple[float, float] | None = None
    y_limits: tuple[float, float] | None = None
    label: str = ""


@dataclass
class Panel:
    """A chart under construction; every method adds to it.

    Attributes:
        x: the axis across.
        y: the axis up.
        title: what is shown, with the unit of the axis up; part of the text alternative.
        x_label: under the axis.
        width: of the drawing, in units of about a pixel.
        height: of the drawing.
        left: room for the labels of the axis up.
    """

    x: Scale
    y: Scale
    title: str
    x_label: str = ""
    width: int = 340
    height: int = 220
    left: int = 46
    _parts: list[str] = field(default_factory=list)

    _RIGHT, _TOP, _BOTTOM = 12, 34, 40

    def across(self, value: float) -> float:
        """Where a value of the axis across stands, in units."""
        return self.left + self.x.share(value) * (self.width - self.left - self._RIGHT)

    def up(self, value: float) -> float:
        """Where a value of the axis up stands, in units from above."""
        return self.height - self._BOTTOM - self.y.share(value) * (self.height - self._TOP - self._BOTTOM)

    def rule(self, value: float, css: str, label: str = "") -> None:
        """A line across the whole chart at a height, with its name at the left."""
        y, right = self.up(value), self.width - self._RIGHT
        self._parts.append(f'<line class="{css}" x1="{self.left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        if label:
            self._parts.append(f'<text class="note" x="{self.left + 4}" y="{y - 4:.1f}">{escape(label)}</text>')

    def line(
        self, points: Sequence[Point], look: Look, *, markers: bool = True, css: str = "", shift: float = 0.0
    ) -> None:
        """A line through points, with their intervals; all of it ``shift`` units to the right."""
        corners = " ".join(f"{self.across(point.x) + shift:.1f},{self.up(point.y):.1f}" for point in points)
        self._parts.append(f'<polyline class="line {look.css} {css}" points="{corners}"/>')
        shown = points if markers else points[-1:]
        for point in shown:
            self.point(point, look, shift=shift)

    def band(self, points: Sequence[Point], look: Look) -> None:
        """The area between the limits of points."""
        limits = [(point.x, point.y_limits) for point in points if point.y_limits is not None]
        if len(limits) > 1:
            there = [(x, high) for x, (_low, high) in limits]
            back = [(x, low) for x, (low, _high) in reversed(limits)]
            corners = " ".join(f"{self.across(x):.1f},{self.up(y):.1f}" for x, y in itertools.chain(there, back))
            self._parts.append(f'<polygon class="band {look.css}" points="{corners}"/>')

    def point(self, point: Point, look: Look, *, css: str = "", shift: float = 0.0) -> None:
        """A marker with its whiskers, ``shift`` units to the right of its place."""
        x, y = self.across(point.x) + shift, self.up(point.y)
        if point.x_limits is not None:
            low, high = (self.across(limit) + shift for limit in point.x_limits)
            self._parts.append(
                f'<line class="whisker {look.css}" x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
        if point.y_limits is not None:
            low, high = (self.up(limit) for limit in point.y_limits)
            self._parts.append(
                f'<line class="whisker {look.css}" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
            )
        title = f"<title>{escape(point.label)}</title>" if point.label else ""
        place = f'transform="translate({x:.1f},{y:.1f})"'
        self._parts.append(f'<path class="marker {look.css} {css}" d="{look.marker}" {place}>{title}</path>')

    def shifts(self, values: Sequence[float]) -> list[float]:
        """Units by which points across stand apart of which others stand at the same place, left to right in turn."""
        places = [round(self.across(value) / APART) for value in values]
        taken = Counter[int]()
        found = []
        for place in places:
            found.append(APART * (taken[place] - (places.count(place) - 1) / 2))
            taken[place] += 1
        return found

    def steps(self, corners: Sequence[tuple[float, float]], css: str) -> None:
        """A line through corners given in the values of the axes."""
        drawn = " ".join(f"{self.across(x):.1f},{self.up(y):.1f}" for x, y in corners)
        self._parts.append(f'<polyline class="{css}" points="{drawn}"/>')

    def svg(self, description: str = "") -> Markup:
        """The chart; ``description`` says in words what it shows."""
        text = escape(". ".join(part for part in (self.title, description) if part))
        parts = [
            f'<svg class="chart" role="img" aria-label="{text}" viewBox="0 0 {self.width} {self.height}">',
            f'<text class="title" x="2" y="14">{escape(self.title)}</text>',
            *self._grid(),
            *self._parts,
            "</svg>",
        ]
        return Markup("".join(parts))

    def _grid(self) -> list[str]:
        bottom, right = self.height - self._BOTTOM, self.width - self._RIGHT
        lines = []
        for value, label in self.y.ticks:
            y = self.up(value)
            lines.append(f'<line class="grid" x1="{self.left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            lines.append(f'<text x="{self.left - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(label)}</text>')
        for value, label in self.x.ticks:
            x = self.across(value)
            lines.append(f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
            lines.append(f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{escape(label)}</text>')
        lines.append(f'<line class="axis" x1="{self.left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
        middle = (self.left + right) / 2
        lines.append(
            f'<text class="label" x="{middle}" y="{self.height - 5}" text-anchor="middle">{escape(self.x_label)}</text>'
        )
        return lines
