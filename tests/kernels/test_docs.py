"""The examples of the kernel pages run, and every public name has a page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import safe_kernels

PAGES = Path(__file__).parents[2] / "docs" / "kernels"


def examples(page: Path) -> list[str]:
    """The Python code of a page."""
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("page", sorted(page for page in PAGES.glob("*.md") if examples(page)), ids=lambda p: p.stem)
def test_examples_run(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFE_KERNELS_BACKEND", "auto")
    for example in examples(page):
        exec(compile(example, str(page), "exec"), {})


def test_every_operation_is_shown() -> None:
    code = "\n".join(example for page in PAGES.glob("*.md") for example in examples(page))
    classes = {"FrequentDirections", "LinearGradientGram"}
    operations = {name for name in safe_kernels.__all__ if name.islower() or name in classes}
    assert {name for name in operations if name not in code} == set()
