"""Imports point one way: no circle of modules, and no room that knows one above it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("safe_kernels", "safe_train", "experiments", "containers")

LAYERS = (
    ("safe_train.configs", "safe_train.io.messages"),
    ("safe_train.errors",),
    ("safe_train.io",),
    ("safe_train.variants",),
    ("safe_kernels", "safe_train.metrics"),
    ("safe_train.settings", "safe_train.data.datasets.registry"),
    (
        "safe_train.data.settings", "safe_train.distributed.settings", "safe_train.evaluation.settings",
        "safe_train.model.settings", "safe_train.retention.settings", "safe_train.training.settings",
    ),
    ("safe_train.config",),
    ("safe_train.config_reference",),
    ("safe_train.audio", "safe_train.embedded", "safe_train.retention", "safe_train.distributed"),
    ("safe_train.model",),
    ("safe_train.data",),
    ("safe_train.runs",),
    ("safe_train.evaluation",),
    ("safe_train.report",),
    ("safe_train.training",),
    ("safe_train.estimate", "safe_train.finetuning"),
    ("safe_train.huggingface",),
    ("safe_train.cli",),
    ("experiments", "containers"),
)  # fmt: skip
"""From the lowest to the highest: a module imports from its own layer's package and from layers below."""


def modules(root=ROOT):
    """Every module of the packages with the file it stands in."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
            found[name] = path
    return {name: path for name, path in found.items() if not name.startswith("safe_train.configs.")} | {
        f"safe_train.configs.{path.stem}": path for path in sorted((root / "configs").glob("[a-z]*.py"))
    }


def imports(path, known, *, lazy=True):
    """The known modules that a file imports, also inside functions but not for the type checker alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    nodes = (node for node in (ast.walk(tree) if lazy else tree.body) if id(node) not in for_types)
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names | (set() if names <= known else {node.module})
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & known


def graph():
    found = modules()
    return {name: imports(path, set(found)) - {name} for name, path in found.items()}


def circles(edges):
    """Modules that import each other, over however many others."""
    reach = {name: set(others) for name, others in edges.items()}
    changed = True
    while changed:
        changed = False
        for others in reach.values():
            further = set().union(*(reach[other] for other in others)) - others if others else set()
            if further:
                others |= further
                changed = True
    return sorted(name for name, others in reach.items() if name in others)


def layer(module):
    """Number and package of the layer that names the module most exactly; None for one that is in no layer."""
    fits = [
        (len(package), number, package)
        for number, packages in enumerate(LAYERS)
        for package in packages
        if module == package or module.startswith(f"{package}.")
    ]
    return max(fits)[1:] if fits else None


def upward(edges):
    """Imports of a module above, or of another package of the same layer."""
    found = []
    for name, others in edges.items():
        own = layer(name)
        for other in sorted(others):
            target = layer(other)
            if own and target and (target[0] > own[0] or (target[0] == own[0] and target[1] != own[1])):
                found.append(f"{name} imports {other}")
    return found


def test_no_module_is_in_a_circle_of_imports():
    # A package's own __init__ that collects names for users stands above its modules.
    assert circles(graph()) == []


def test_imports_point_down():
    assert upward(graph()) == []


def test_every_module_is_in_a_layer():
    outside = {"safe_train", "safe_train.__main__"}
    assert [name for name in graph() if layer(name) is None and name not in outside] == []


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("safe_train.retention.ewc", "safe_train.training.trainer"),
        ("safe_train.embedded.dataset", "safe_train.data.example"),
        ("safe_train.embedded.dataset", "safe_train.audio.file"),
        ("safe_train.model.loading", "safe_train.data.collator"),
        ("safe_train.evaluation.evaluator", "safe_train.report.summary"),
    ],
)
def test_an_import_of_what_is_above_is_found(name, other):
    edges = graph()
    edges[name] = edges[name] | {other}
    assert f"{name} imports {other}" in upward(edges)


def test_a_circle_is_found():
    edges = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}
    assert circles(edges) == ["a", "b", "c"]


def test_retention_needs_torch_and_the_kernels_alone():
    allowed = {"safe_kernels", "safe_train.retention", "safe_train.configs", "safe_train.settings"}
    for name, others in graph().items():
        if name.startswith("safe_train.retention"):
            beyond = [o for o in others if not any(o == a or o.startswith(f"{a}.") for a in allowed)]
            assert beyond == [], name
