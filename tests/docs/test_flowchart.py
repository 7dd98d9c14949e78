"""Diagrams: what is read of Mermaid's language, and where boxes and arrows come to lie."""

import re
import xml.etree.ElementTree as ET

import pytest

from scripts.docs_site import flowchart

SOURCE = """
flowchart TB
    a["reader<br>data.datasets"] --> b["left"] -->|label| d["end"]:::trained
    a --> c["right &amp; more"]
    c -.-> d
    a --> d
"""
SVG = "{http://www.w3.org/2000/svg}"


def drawn(source):
    svg = ET.fromstring(flowchart.draw(source, 'a "title"'))[0]
    texts = [element.text for element in svg.iter(f"{SVG}text")]
    boxes = [
        {name: float(rect.get(name)) for name in ("x", "y", "width", "height")} | {"kind": rect.get("class")}
        for rect in svg.iter(f"{SVG}rect")
    ]
    edges = [path for path in svg.iter(f"{SVG}path") if "edge" in path.get("class")]
    return svg, texts, boxes, edges


def test_nodes_edges_labels_and_classes():
    svg, texts, boxes, edges = drawn(SOURCE)
    assert texts == ["label", "reader", "data.datasets", "left", "end", "right & more"]
    assert [box["kind"].split() for box in boxes] == [["node"], ["node"], ["node", "trained"], ["node"]]
    assert sum("dashed" in edge.get("class") for edge in edges) == 1
    assert len(edges) == 5
    assert svg.get("aria-label") == 'a "title"'


def test_boxes_do_not_touch_and_lie_within_the_drawing():
    svg, _, boxes, _ = drawn(SOURCE)
    _, _, width, height = map(float, svg.get("viewBox").split())
    for box in boxes:
        assert box["x"] >= 0
        assert box["y"] >= 0
        assert box["x"] + box["width"] <= width
        assert box["y"] + box["height"] <= height
    for first in boxes:
        for second in boxes:
            apart_x = first["x"] + first["width"] < second["x"] or second["x"] + second["width"] < first["x"]
            apart_y = first["y"] + first["height"] < second["y"] or second["y"] + second["height"] < first["y"]
            assert first is second or apart_x or apart_y


def test_arrows_lead_downwards_from_box_to_box():
    _, _, boxes, edges = drawn(SOURCE)
    bottoms = {round(box["y"] + box["height"], 1) for box in boxes}
    tops = {round(box["y"], 1) for box in boxes}
    for edge in edges:
        numbers = [float(number) for number in re.findall(r"[\d.]+", edge.get("d"))]
        assert numbers[1] in bottoms
        assert numbers[-1] in tops
        assert numbers[-1] > numbers[1]


def test_a_long_edge_passes_beside_the_boxes_of_the_rows_between():
    _, _, boxes, edges = drawn(SOURCE)
    long = next(edge for edge in edges if edge.get("d").count("C") == 2)
    x, y = re.findall(r"([\d.]+) ([\d.]+)(?=C|$)", long.get("d"))[1]
    inside = [
        box
        for box in boxes
        if box["x"] <= float(x) <= box["x"] + box["width"] and box["y"] <= float(y) <= box["y"] + box["height"]
    ]
    assert inside == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("graph LR\na", "flowchart TB"),
        ('flowchart TB\na["x"] ==> b["y"]', "expected -->"),
        ('flowchart TB\na["x"] --> b', "label for each node"),
        ('flowchart TB\nsubgraph s["x"]', "expected -->"),
        ('flowchart TB\na["x"] --> b["y"]\nb --> a', "circle"),
        ('flowchart TB\na["x"] --> a', "circle"),
    ],
)
def test_what_is_not_understood_is_an_error(source, expected):
    with pytest.raises(ValueError, match=expected):
        flowchart.draw(source)
