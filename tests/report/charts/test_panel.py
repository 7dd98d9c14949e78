"""Points, names and colors of a chart."""

import re
from importlib.resources import files

import pytest

from safe_train.report.charts.panel import APART, COLORS, Look, Panel, Point
from safe_train.report.charts.scales import linear
from tests.report.pages import HOSTILE


def test_points_of_one_place_stand_apart_about_it():
    panel = Panel(x=linear([0.0, 100.0]), y=linear([0.0, 1.0]), title="")
    assert panel.shifts([50.0, 10.0, 50.0, 50.0]) == [-APART, 0.0, 0.0, APART]
    assert panel.shifts([10.0, 50.0]) == [0.0, 0.0]


def test_names_in_charts_are_escaped():
    panel = Panel(linear([0.0, 1.0]), linear([0.0, 1.0]), HOSTILE, HOSTILE)
    panel.rule(0.5, "margin", HOSTILE)
    panel.point(Point(0.0, 0.0, label=HOSTILE), Look(0))
    drawn = panel.svg(HOSTILE)
    assert "<script" not in drawn
    assert drawn.count("&lt;script&gt;") == 6  # title, axis, rule, point, and two in the text alternative


def luminance(color):
    """Relative luminance of a color. Source: WCAG 2.2, https://www.w3.org/TR/WCAG22/#dfn-relative-luminance."""
    channels = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_the_definition():
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#767676", "#ffffff") >= 4.5 > contrast("#777777", "#ffffff")  # the well-known limit


def test_colors_stand_out_in_light_and_dark():
    style = files("safe_train.report").joinpath("style.css").read_text()
    for palette in palettes(style):
        for name in ("ink", "muted", "accent", "good", "bad", "open"):
            for ground in ("paper", "good-tint", "bad-tint", "open-tint"):
                assert contrast(palette[name], palette[ground]) >= 4.5, (name, ground)
        for number in range(COLORS):
            assert contrast(palette[f"c{number}"], palette["paper"]) >= 3.0, number


def palettes(style):
    """The three palettes of the style sheet: light, dark, print."""
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    assert len(blocks) == 3
    found = []
    for block in blocks:
        colors = dict(re.findall(r"--([\w-]+):\s*(#[0-9a-f]+)", block))
        found.append({name: "#" + "".join(2 * c for c in v[1:]) if len(v) == 4 else v for name, v in colors.items()})
    return found
