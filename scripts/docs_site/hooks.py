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
GENERATED = {"reference/settings.md": pages.settings_page, "reference/commands.md": pages.commands_page}
TUTORIAL = "tutorial.ipynb"
SOURCES = "source"
"""Folder of the site with the files of the repository that pages link to."""

_LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)]*)?\))")
_FENCE = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made when the site is built."""
    for path, make in GENERATED.items():
        files.append(File.generated(config, path, content=make()))
    read = nbformat.read(ROOT / "docs" / TUTORIAL, as_version=4)
    files.append(File.generated(config, str(Path(TUTORIAL).with_suffix(".md")), content=notebook.to_markdown(read)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Draws the diagrams, and brings linked files of the repository into the site."""
    markdown = _FENCE.sub(lambda fence: flowchart.draw(fence[1], str(page.title)), markdown)
    return _LINK.sub(lambda link: link[1] + _into_site(link[2], page.file.src_uri, config, files) + link[3], markdown)


def _into_site(link: str, page: str, config: MkDocsConfig, files: Files) -> str:
    """Where a link leads on the site; one to a file beside ``docs/`` leads to a copy, and so does a page's notebook."""
    target = normpath(str(PurePosixPath("docs", page).parent / link))
    if "://" in link or (target.startswith("docs/") and target != f"docs/{TUTORIAL}"):
        return link
    if target == f"docs/{TUTORIAL}":
        return relpath("tutorial.md", str(PurePosixPath(page).parent))
    if not (ROOT / target).is_file():
        raise FileNotFoundError(f"docs/{page} links to {link}: {target} is not there")
    copy = f"{SOURCES}/{target}.txt" if target.endswith((".md", ".yaml", ".py")) else f"{SOURCES}/{target}"
    if files.get_file_from_path(copy) is None:
        files.append(File.generated(config, copy, content=(ROOT / target).read_bytes()))
    return relpath(copy, str(PurePosixPath(page).parent))
