"""Definition files: rendered from an :class:`ImageSpec` and read back to the same one.

Both ways go through spython's ``Recipe``. Its own writer knows no bootstrap but ``docker`` and its parser changes what
it reads (letter case, tests, comments), so both are subclassed: headers stand before the first section, and a section's
text is kept as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spython.main.parse.parsers import SingularityParser
from spython.main.parse.recipe import Recipe
from spython.main.parse.writers import SingularityWriter

from containers.spec import DebootstrapBase, DockerBase, FileCopy, ImageSpec, Label

_STAGE = "final"
_TEXT_SECTIONS = {"help": "help", "environment": "environ", "post": "install", "test": "test", "runscript": "cmd"}
"""Section and the attribute of ``Recipe`` that holds its lines."""
_PAIR_SECTIONS = {"files": "files", "labels": "labels"}
_ORDER = ("help", "labels", "files", "environment", "post", "test", "runscript")


class DefinitionRecipe(Recipe):
    """A recipe that also knows its headers.

    Attributes:
        headers: name and value of each header, in order.
        help: lines of ``%help``.
    """

    def __init__(self, recipe: str | None = None, layer: int = 1) -> None:
        super().__init__(recipe, layer)
        self.headers: dict[str, str] = {}
        self.help: list[str] = []


class DefinitionWriter(SingularityWriter):
    """Writes any bootstrap, and every section as it is."""

    def __init__(self, recipe: dict[str, DefinitionRecipe]) -> None:
        super().__init__(recipe)
        self.recipe = recipe

    # The base's return type is inferred from its string literals.
    def convert(self, runscript: str = "", force: bool = False) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The definition file's text."""
        (recipe,) = self.recipe.values()
        blocks = [[f"{name}: {value}" for name, value in recipe.headers.items()]]
        for section in _ORDER:
            lines = _section_lines(recipe, section)
            if lines:
                blocks.append([f"%{section}", *lines])
        return "\n\n".join("\n".join(block) for block in blocks) + "\n"


class DefinitionParser(SingularityParser):
    """Reads headers only before the first section, keeps letter case, and takes sections as they are."""

    def load_recipe(self) -> None:
        """Fills the recipe from the lines of the file.

        Raises:
            ValueError: a header is no header, or a section is unknown or comes twice.
        """
        recipe = DefinitionRecipe(self.filename)
        self.recipe = {_STAGE: recipe}
        sections: dict[str, list[str]] = {}
        current: list[str] | None = None
        for line in (line.rstrip("\n") for line in self.lines):
            if line.startswith("%"):
                current = _new_section(line, sections)
            elif current is not None:
                current.append(line)
            elif line.strip() and not line.startswith("#"):
                name, colon, value = line.partition(":")
                if not colon:
                    raise ValueError(f"{self.filename}: expected a header such as Bootstrap: docker, got {line!r}")
                recipe.headers[name.strip()] = value.strip()
        for section, lines in sections.items():
            _fill(recipe, section, _without_blank_ends(lines))


def write_definition(spec: ImageSpec) -> str:
    """The definition file of an image."""
    recipe = DefinitionRecipe()
    recipe.headers = _headers(spec.base)
    recipe.files = [[copy.source, copy.target] for copy in spec.files]
    recipe.labels = [[label.name, label.value] for label in spec.labels]
    for section, attribute in _TEXT_SECTIONS.items():
        text = getattr(spec, section)
        setattr(recipe, attribute, text.split("\n") if text else [])
    return DefinitionWriter({_STAGE: recipe}).convert()


def parse_definition(path: Path) -> ImageSpec:
    """The image that a definition file describes.

    Raises:
        ValueError: the file holds something that an :class:`ImageSpec` does not.
    """
    (recipe,) = DefinitionParser(str(path)).recipe.values()
    texts = {section: "\n".join(getattr(recipe, name) or []) for section, name in _TEXT_SECTIONS.items()}
    return ImageSpec(
        base=_base(recipe.headers),
        files=tuple(FileCopy(*pair) for pair in recipe.files),
        labels=tuple(Label(*pair) for pair in recipe.labels),
        **texts,
    )


def _headers(base: DockerBase | DebootstrapBase) -> dict[str, str]:
    if isinstance(base, DockerBase):
        return {"Bootstrap": "docker", "From": base.image}
    headers = {"Bootstrap": "debootstrap", "OSVersion": base.suite, "MirrorURL": base.mirror}
    return headers | ({"Include": " ".join(base.include)} if base.include else {})


def _base(headers: dict[str, str]) -> DockerBase | DebootstrapBase:
    known = {"docker": {"From"}, "debootstrap": {"OSVersion", "MirrorURL", "Include"}}
    bootstrap = headers.get("Bootstrap", "")
    required = known.get(bootstrap, set()) - {"Include"}
    given = set(headers) - {"Bootstrap"}
    if bootstrap not in known or not required <= given or not given <= known[bootstrap]:
        raise ValueError(f"headers: expected those of docker or debootstrap, got {headers}")
    if bootstrap == "docker":
        return DockerBase(image=headers["From"])
    include = tuple(headers.get("Include", "").split())
    return DebootstrapBase(suite=headers["OSVersion"], mirror=headers["MirrorURL"], include=include)


def _section_lines(recipe: DefinitionRecipe, section: str) -> Sequence[str]:
    if section in _PAIR_SECTIONS:
        return [f"    {' '.join(pair)}" for pair in getattr(recipe, _PAIR_SECTIONS[section])]
    return getattr(recipe, _TEXT_SECTIONS[section]) or []


def _new_section(line: str, sections: dict[str, list[str]]) -> list[str]:
    name = line[1:].strip()
    if name not in _ORDER:
        raise ValueError(f"expected a section among {', '.join(_ORDER)}, got {line!r}")
    if name in sections:
        raise ValueError(f"expected each section once, got %{name} again")
    return sections.setdefault(name, [])


def _fill(recipe: DefinitionRecipe, section: str, lines: list[str]) -> None:
    if section in _PAIR_SECTIONS:
        setattr(recipe, _PAIR_SECTIONS[section], [line.split(maxsplit=1) for line in lines if line.strip()])
    else:
        setattr(recipe, _TEXT_SECTIONS[section], lines)


def _without_blank_ends(lines: list[str]) -> list[str]:
    filled = [number for number, line in enumerate(lines) if line.strip()]
    return lines[filled[0] : filled[-1] + 1] if filled else []
