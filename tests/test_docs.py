"""The examples in the documentation run, and its relative links lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
GENERATED = {ROOT / "docs/reference/settings.md", ROOT / "docs/reference/commands.md"}
"""Pages that are written when the site is built."""
EXAMPLES = {
    page: examples
    for page in PAGES
    if page.parent in (ROOT, ROOT / "docs")
    if (examples := re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE))
}


def test_there_are_examples():
    assert {page.name for page in EXAMPLES} >= {"README.md", "retention.md", "hugging_face.md"}


@pytest.mark.parametrize("page", EXAMPLES, ids=lambda page: page.name)
def test_examples_run(page, tmp_path, monkeypatch):
    """In the order of the page; an example may use what those before it have made."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "example"}
    for number, example in enumerate(EXAMPLES[page], start=1):
        exec(compile(example, f"{page.name}, example {number}", "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_exist(page):
    """Also where the pages are read as plain files."""
    links = [link for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()) if "://" not in link]
    targets = {link: (page.parent / link).resolve() for link in links}
    assert [link for link, target in targets.items() if not target.exists() and target not in GENERATED] == []
