"""The architecture page names modules that are there, and draws the layers that the imports have."""

import itertools
import re
from pathlib import Path

import pytest

from scripts.docs_site import flowchart
from tests.test_imports import LAYERS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/concepts/architecture.md").read_text(encoding="utf-8")
FLOW, IMPORTS = re.findall(r"^```mermaid\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
DOTTED = re.compile(r"[a-z_]+(?:\.[a-z_]+)+")


def is_module(name):
    """Whether a dotted name below ``safe_train`` is a module, or something that a module defines."""
    *parts, last = name.removeprefix("safe_train.").split(".")
    whole, module = ROOT / "safe_train" / Path(*parts, last), ROOT / "safe_train" / Path(*parts)
    if whole.is_dir() or whole.with_suffix(".py").is_file():
        return True
    source = module.with_suffix(".py") if module.with_suffix(".py").is_file() else module / "__init__.py"
    return source.is_file() and last in source.read_text(encoding="utf-8")


def named_modules():
    in_diagram = [line for node in flowchart.parse(FLOW).nodes.values() for line in node.lines[1:]]
    in_text = [name for name in re.findall(r"`([a-z_.]+)`", PAGE) if not name.endswith((".json", ".jsonl"))]
    return sorted(set(DOTTED.findall(" ".join([*in_diagram, *in_text]))))


def test_modules_are_named():
    assert {"data.datasets", "training.trainer", "retention.null_space"} <= set(named_modules())


@pytest.mark.parametrize("name", named_modules())
def test_a_named_module_is_there(name):
    assert is_module(name)


@pytest.mark.parametrize("name", ["data.rows", "training.run.run_stage_a", "nothing.at_all"])
def test_a_name_that_is_not_there_would_be_found(name):
    assert not is_module(name)


def layer_of(name):
    qualified = name if name.startswith("safe_kernels") else f"safe_train.{name}"
    fits = [(len(package), number) for number, row in enumerate(LAYERS) for package in row if package == qualified]
    assert fits, f"{name} is in no layer"
    return max(fits)[1]


def test_the_layers_are_those_of_the_imports():
    """The diagram is a chain; a package stands above another only where its layer is above, or beside."""
    rows = [node.lines[0].split(", ") for node in flowchart.parse(IMPORTS).nodes.values()]
    numbers = [[layer_of(name) for name in row] for row in rows]
    for upper, lower in itertools.pairwise(numbers):
        assert min(upper) >= max(lower)
