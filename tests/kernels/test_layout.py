"""Every operation has the same files in its folder, the same tests of its operator, and a page."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import safe_kernels

PACKAGE = Path(str(safe_kernels.__file__)).parent
TESTS, PAGES = Path(__file__).parent, Path(__file__).parents[2] / "docs" / "kernels"

FILES = {"__init__", "api", "kernels", "ops", "reference", "torch_impl", "triton_impl"}
OF_OPERATOR = {"test_opcheck", "test_one_graph", "test_the_backend_asked_for_runs", "test_flops"}

FOLDERS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
OPERATIONS = [name for name in FOLDERS if not name.startswith("_") and name != "bases"]
"""All folders but those that several operations share, and `bases`, which needs no operator of its own."""


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_folders_are_found() -> None:
    assert {"kl", "linear_kl", "ewc_penalty", "project_null_space"} <= set(OPERATIONS)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_has_its_files(operation: str) -> None:
    assert {path.stem for path in (PACKAGE / operation).glob("*.py")} >= FILES


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operator_has_its_tests(operation: str) -> None:
    assert (TESTS / operation / "test_api.py").exists()
    functions = {
        node.name for node in tree(TESTS / operation / "test_ops.py").body if isinstance(node, ast.FunctionDef)
    }
    assert functions >= OF_OPERATOR


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_package_holds_only_exports(folder: str) -> None:
    docstring, *body = tree(PACKAGE / folder / "__init__.py").body
    assert isinstance(docstring, ast.Expr)
    assert all(isinstance(node, ast.ImportFrom) or ast.unparse(node).startswith("__all__ =") for node in body)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_kernels_are_triton_functions_alone(operation: str) -> None:
    functions = [node for node in tree(PACKAGE / operation / "kernels.py").body if isinstance(node, ast.FunctionDef)]
    assert functions
    for function in functions:
        assert any(ast.unparse(decorator).startswith("triton.jit") for decorator in function.decorator_list), (
            function.name
        )


@pytest.mark.parametrize("operation", OPERATIONS)
def test_triton_is_imported_where_it_runs_alone(operation: str) -> None:
    """So that `import safe_kernels` needs torch alone."""
    for path in (PACKAGE / operation).glob("*.py"):
        if path.stem not in ("kernels", "triton_impl"):
            assert not re.search(r"^(import triton|from triton|from \S*_triton)", path.read_text(), re.MULTILINE), path


@pytest.mark.parametrize("folder", sorted(path.name for path in TESTS.iterdir() if any(path.glob("test_*.py"))))
def test_folders_of_tests_mirror_the_package(folder: str) -> None:
    assert folder in FOLDERS or folder == "native"  # tests that need a GPU


def test_every_operation_has_a_page() -> None:
    table = (PAGES / "README.md").read_text(encoding="utf-8")
    assert {name for name in OPERATIONS if f"`{name}/`" not in table} == set()
