"""The built site: strict, complete, without a dead link, and without anything loaded from the network."""

import importlib
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from safe_train.cli import safe
from safe_train.config import known_keys
from scripts.docs_site.hooks import GENERATED
from tests.report.browser import browser, find_browser

ROOT = Path(__file__).parents[2]
API = {"safe_kernels": "kernels", "safe_train.retention": "retention", "safe_train.huggingface": "huggingface"}
LOADING = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "link": "href",
}
AT_ANOTHER_PLACE = re.compile(r"^(?:[a-z]+:)?//", re.IGNORECASE)


class Page(HTMLParser):
    """The ids of a page, where its links lead, and what it loads."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loads, self.classes = set(), [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids |= {values[name] for name in ("id", "name") if values.get(name)}
        self.classes |= set((values.get("class") or "").split())
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        address = values.get(LOADING.get(tag, ""))
        if address and values.get("rel") != "canonical":
            self.loads.append(address)
        self.loads += addresses_in_css(values.get("style") or "")
        self.loads += [part.split()[0] for part in (values.get("srcset") or "").split(",") if part.strip()]


def addresses_in_css(text):
    found = re.findall(r"""url\(\s*["']?([^"')]+)|@import\s+["']([^"']+)""", text)
    return [first or second for first, second in found if not (first or second).startswith("data:")]


def outside(loads):
    return sorted({address for address in loads if AT_ANOTHER_PLACE.match(address)})


def dead_links(pages, site):
    """Relative links without a file, or to an anchor that is not there."""
    dead = []
    for name, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link.startswith("#__"):
                continue
            target = os.path.normpath(Path(name).parent / unquote(parts.path)) if parts.path else name
            anchors = pages[target].ids if target in pages else set()
            if not (site / target).exists() or (parts.fragment and unquote(parts.fragment) not in anchors):
                dead.append(f"{name}: {link}")
    return dead


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (built.returncode, built.stdout + built.stderr) == (0, "")
    return folder


@pytest.fixture(scope="session")
def pages(site):
    # 404.html is shown at any address: its links begin at the root of the host.
    files = [path for path in sorted(site.rglob("*.html")) if path.name != "404.html"]
    return {str(path.relative_to(site)): Page(path.read_text(encoding="utf-8")) for path in files}


def test_every_page_is_built(pages):
    sources = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    expected = {re.sub(r"README$", "index", source.removesuffix(".md")) + ".html" for source in sources}
    assert expected | {page.removesuffix(".md") + ".html" for page in GENERATED} == set(pages)


def test_every_internal_link_leads_somewhere(pages, site):
    assert dead_links(pages, site) == []


def test_nothing_is_loaded_from_elsewhere(pages, site):
    assert {name: outside(page.loads) for name, page in pages.items() if outside(page.loads)} == {}
    styles = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
    assert outside(address for style in styles for address in addresses_in_css(style)) == []
    # The theme's script fetches Mermaid for these; diagrams are drawn when the site is built.
    assert [name for name, page in pages.items() if "mermaid" in page.classes] == []


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ('<script src="https://cdn.example/a.js"></script>', ["https://cdn.example/a.js"]),
        ('<img srcset="a.png 1x, //cdn.example/b.png 2x">', ["//cdn.example/b.png"]),
        ('<p style="background: url(https://cdn.example/c.png)">', ["https://cdn.example/c.png"]),
        ('<link rel="stylesheet" href="http://fonts.example/css">', ["http://fonts.example/css"]),
        ('<a href="https://example.org">a link is not loaded</a>', []),
    ],
)
def test_what_is_loaded_from_elsewhere_would_be_found(html, expected):
    assert outside(Page(html).loads) == expected


def test_a_dead_link_would_be_found(tmp_path):
    (tmp_path / "b.html").touch()
    texts = {"a.html": '<a href="b.html#x">1</a><a href="b.html#y">2</a><a href="c.html">3</a>', "b.html": '<p id="x">'}
    found = dead_links({name: Page(text) for name, text in texts.items()}, tmp_path)
    assert found == ["a.html: b.html#y", "a.html: c.html"]


@pytest.mark.parametrize(("module", "page"), API.items())
def test_every_public_name_is_on_an_api_page(module, page, pages):
    names = {f"{module}.{name}" for name in importlib.import_module(module).__all__}
    assert names - pages[f"api/{page}.html"].ids == set()


def test_every_member_that_an_api_page_asks_for_is_there(pages):
    asked = re.compile(r"^::: (\S+)\n(?:    .*\n)*?      members: \[(.*)\]", re.MULTILINE)
    wanted = {
        f"{module}.{member.strip()}": path.stem
        for path in (ROOT / "docs/api").glob("*.md")
        for module, members in asked.findall(path.read_text(encoding="utf-8"))
        for member in members.split(",")
    }
    assert wanted
    assert [name for name, page in wanted.items() if name not in pages[f"api/{page}.html"].ids] == []


def test_every_setting_has_an_anchor(pages):
    assert set(known_keys()) - pages["reference/settings.html"].ids == set()


def test_every_command_has_a_heading(site):
    text = (site / "reference/commands.html").read_text(encoding="utf-8")
    for name, command in safe.commands.items():
        assert (f">safe {name}<" in text) is not command.hidden, name


needs_a_browser = pytest.mark.skipif(find_browser() is None, reason="no Chromium on this machine")


@needs_a_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_pages_fit_the_screen_and_ask_for_nothing(site, width):
    with browser(find_browser()) as chromium:
        for name in ("index", "start", "tutorial", "concepts/architecture", "reference/settings", "ablation"):
            page = chromium.open(site / f"{name}.html", width=width)
            assert page.value("document.documentElement.scrollWidth") <= width, name
            assert [request for request in page.requests if not request.startswith("file:")] == [], name
            assert page.errors == [], name


@needs_a_browser
def test_diagrams_are_wholly_seen_on_a_phone(site):
    with browser(find_browser()) as chromium:
        for name in ("index", "concepts/architecture"):
            page = chromium.open(site / f"{name}.html", width=390)
            sizes = page.value("[...document.querySelectorAll('.flowchart')].map(x => [x.scrollWidth, x.clientWidth])")
            assert sizes, name
            assert all(scroll <= client for scroll, client in sizes), name


SEARCH = """
new Promise((resolve, reject) => {
  const input = document.querySelector(".md-search__input")
  input.focus()
  input.value = "distractor"
  input.dispatchEvent(new KeyboardEvent("keyup"))
  input.dispatchEvent(new Event("input"))
  const look = setInterval(() => {
    const links = [...document.querySelectorAll(".md-search-result__link")].map(link => link.getAttribute("href"))
    if (links.length) { clearInterval(look); resolve(links) }
  }, 50)
  setTimeout(() => reject("nothing was found"), 30000)
})
"""


@needs_a_browser
def test_the_search_finds_a_page_when_the_site_is_opened_from_a_folder(site):
    with browser(find_browser()) as chromium:
        page = chromium.open(site / "index.html")
        found = page.value(SEARCH)
        assert any("evaluation" in link for link in found)
        assert page.errors == []
