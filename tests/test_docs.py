"""The examples in the documentation run, and its relative links lead somewhere."""

import re
from pathlib import Path

import pytest

from safe_train.cli import safe
from safe_train.config import known_keys

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
GENERATED = {ROOT / "docs/reference/settings.md", ROOT / "docs/reference/commands.md"}
"""Pages that are written when the site is built."""
EXAMPLES = {
    page: examples
    for page in PAGES
    if page == ROOT / "README.md" or page.parent == ROOT / "docs"
    if (examples := re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE))
}


def test_there_are_examples():
    assert {page.name for page in EXAMPLES} >= {"README.md", "retention.md", "hugging_face.md", "finetuning.md"}


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


SECTIONS = {key.partition(".")[0] for key in known_keys() if "." in key}
SETTING = re.compile(rf"(?<![\w./])(?:{'|'.join(sorted(SECTIONS))})\.[a-z]\w*(?![\w./(])")
COMMAND = re.compile(r"(?:^|`)safe ([a-z][a-z-]*)", re.MULTILINE)
OURS = [page for page in PAGES if page.name not in ("architecture.md",)]  # that one names modules


def unknown_settings(text):
    spans = re.findall(r"`([^`\n]+)`", text) + re.findall(r"--set '?(\S+)", text)
    return sorted(
        {name for span in spans for name in SETTING.findall(span)} - set(known_keys()) - {"model.safetensors"}
    )


def unknown_commands(text):
    return sorted(set(COMMAND.findall(text)) - set(safe.commands))


@pytest.mark.parametrize("page", OURS, ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_and_commands_that_are_named_exist(page):
    text = page.read_text()
    assert (unknown_settings(text), unknown_commands(text)) == ([], [])


def test_a_setting_or_command_that_does_not_exist_would_be_found():
    text = (
        "`data.text_share`, `data.root` and `data/text`; `safe retrain RUN`\nsafe train --set model.width=3\nsafe-train"
    )
    assert unknown_settings(text) == ["data.text_share", "model.width"]
    assert unknown_commands(text) == ["retrain"]
