"""Hooks of MkDocs: pages made by the program, links to files outside of docs/, and diagrams."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from scripts.docs_site import flowchart, notebook, pages

ROOT = Path(__file__).resolve().parents[2]
GENERATED = {
    "reference/settings.md": pages.settings_page,
    "reference/commands.md": pages.commands_page,
    "contributing.md": lambda: (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").replace("](docs/", "]("),
    "tutorial.md": lambda: notebook.to_markdown(nbformat.read(notebook.NOTEBOOK, as_version=4)),
}
MOVED = {"CONTRIBUTING.md": "contributing.md", "docs/tutorial.ipynb": "tutorial.md"}
"""Files of the repository that are pages of the site, at another place."""

SOURCES = "source"
"""Folder of the site with the files of the repository that pages link to."""

_CODE_OR_LINK = re.compile(
    r"^[ ]*```.*?^[ ]*```|`[^`\n]+`|\]\((?P<target>[^)#\s]+)(?P<anchor>(?:#[^)]*)?)\)", re.MULTILINE | re.DOTALL
)
_FENCE = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made when the site is built."""
    for path, make in GENERATED.items():
        files.append(File.generated(config, path, content=make()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Draws the diagrams, and brings linked files of the repository into the site."""
    markdown = _FENCE.sub(lambda fence: flowchart.draw(fence[1], str(page.title)), markdown)

    def follow(found: re.Match[str]) -> str:
        if found["target"] is None:
            return found[0]
        return f"]({_into_site(found['target'], page.file.src_uri, config, files)}{found['anchor']})"

    return _CODE_OR_LINK.sub(follow, markdown)


def _into_site(link: str, page: str, config: MkDocsConfig, files: Files) -> str:
    """Where a link leads on the site; one to a file beside ``docs/`` leads to a copy."""
    target = normpath(str(PurePosixPath("docs", page).parent / link))
    if target in MOVED:
        return relpath(MOVED[target], str(PurePosixPath(page).parent))
    if "://" in link or target.startswith("docs/"):
        return link
    if not (ROOT / target).is_file():
        raise FileNotFoundError(f"docs/{page} links to {link}: {target} is not there")
    copy = f"{SOURCES}/{target}.txt" if target.endswith((".md", ".yaml", ".py")) else f"{SOURCES}/{target}"
    if files.get_file_from_path(copy) is None:
        files.append(File.generated(config, copy, content=(ROOT / target).read_bytes()))
    return relpath(copy, str(PurePosixPath(page).parent))
