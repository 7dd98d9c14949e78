"""The Debian mirror that a machine uses, read from its own apt configuration; none is written in the project."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from safe_train.errors import InputError

APT = Path("/etc/apt")


def host_mirror(apt: Path = APT) -> str:
    """URL of the first source of Debian's main packages, its security updates not counted.

    Raises:
        InputError: there is none.
    """
    for uri, components in _sources(apt):
        if "main" in components and uri.rstrip("/").endswith("debian"):
            return uri.rstrip("/")
    raise InputError(apt, "a source of Debian packages", "none", "name a mirror with --mirror URL")


def _sources(apt: Path) -> Iterator[tuple[str, list[str]]]:
    """URL and components of every source, in both of apt's formats."""
    for path in (apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))):
        if path.suffix == ".list" and path.is_file():
            yield from _one_line_sources(path.read_text(encoding="utf-8"))
        elif path.suffix == ".sources" and path.is_file():
            yield from _stanza_sources(path.read_text(encoding="utf-8"))


def _one_line_sources(text: str) -> Iterator[tuple[str, list[str]]]:
    """Lines ``deb [options] URL suite component...``."""
    for line in text.splitlines():
        kind, _, rest = line.partition("#")[0].strip().partition(" ")
        words = rest.partition("]")[2].split() if rest.lstrip().startswith("[") else rest.split()
        if kind == "deb" and len(words) >= 2:
            yield words[0], words[2:]


def _stanza_sources(text: str) -> Iterator[tuple[str, list[str]]]:
    """Stanzas of ``Types``, ``URIs``, ``Suites`` and ``Components``."""
    for stanza in text.split("\n\n"):
        pairs = (line.partition(":") for line in stanza.splitlines() if not line.startswith("#"))
        fields = {name.strip().lower(): value.split() for name, _, value in pairs}
        if "deb" in fields.get("types", []):
            for uri in fields.get("uris", []):
                yield uri, fields.get("components", [])
