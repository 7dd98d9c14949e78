"""The generated references say what the program says, and links lead into the site."""

from pathlib import Path

import pytest
from mkdocs.config import load_config
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from safe_train.config_reference import list_settings
from scripts.docs_site import hooks, pages

ROOT = Path(__file__).parents[2]


def test_a_setting_has_meaning_values_default_and_earlier_name():
    page = pages.settings_page()
    setting = next(setting for setting in list_settings() if setting.name == "optimization.max_grad_norm")
    section = page.split(f"### {setting.name} ")[1].split("###")[0]
    assert setting.meaning in section
    assert f"**Values:** {setting.kind}" in section
    assert f"**Default:** `{setting.default}`" in section
    assert "**Earlier name:** `optimization.clip_norm`" in section


def test_choices_are_listed():
    section = pages.settings_page().split("### model.quantization ")[1].split("###")[0]
    assert "**Values:** `none`, `4bit`, `8bit`" in section


def test_commands_have_usage_options_and_what_is_below_them():
    page = pages.commands_page()
    assert "safe eval [OPTIONS] RUN" in page
    assert "| `--max-vl INTEGER RANGE` |" in page
    assert "## safe data check" in page
    assert "## safe container verify" in page
    assert "## safe replay" not in page  # hidden: an earlier name


@pytest.fixture
def follow(tmp_path):
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path))
    config.plugins._current_plugin = "hooks"  # as while an event is handled
    files = Files([])

    def on_page(path, markdown):
        file = File(path, str(ROOT / "docs"), str(tmp_path), use_directory_urls=False)
        return hooks.on_page_markdown(markdown, Page("Title", file, config), config, files), files

    return on_page


@pytest.mark.parametrize(
    ("page", "markdown", "expected"),
    [
        ("index.md", "[a](data.md#x) [b](https://example.org)", "[a](data.md#x) [b](https://example.org)"),
        ("how-to/own_data.md", "[`t`](../tutorial.ipynb)", "[`t`](../tutorial.md)"),
        ("index.md", "`hooks[name](../x)`", "`hooks[name](../x)`"),
        (
            "index.md",
            "1. a\n\n    ```python\n    hooks[name](../x)\n    ```",
            "1. a\n\n    ```python\n    hooks[name](../x)\n    ```",
        ),
        ("concepts/architecture.md", "[c](../../CONTRIBUTING.md#x)", "[c](../contributing.md#x)"),
        ("how-to/own_model.md", "[e](../../examples/settings.yaml)", "[e](../source/examples/settings.yaml.txt)"),
    ],
)
def test_links_lead_into_the_site(follow, page, markdown, expected):
    assert follow(page, markdown)[0] == expected


def test_a_linked_file_of_the_repository_is_copied(follow):
    _, files = follow("index.md", "[e](../examples/settings.yaml)")
    assert [file.src_uri for file in files] == ["source/examples/settings.yaml.txt"]


def test_a_link_to_a_file_that_is_not_there_ends_the_build(follow):
    with pytest.raises(FileNotFoundError, match="examples/none"):
        follow("index.md", "[e](../examples/none.py)")


def test_a_diagram_is_drawn(follow):
    drawn, _ = follow("index.md", 'before\n\n```mermaid\nflowchart TB\na["x"] --> b["y"]\n```\n\nafter')
    assert "<svg" in drawn
    assert "mermaid" not in drawn
