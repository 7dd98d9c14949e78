"""What an image is made of, as values: rendered to a definition file by :mod:`containers.definition`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DockerBase:
    """An image of a Docker registry as the base.

    Attributes:
        image: reference of the image, such as ``debian:trixie``; upper and lower case are kept.
    """

    image: str


@dataclass(frozen=True, kw_only=True)
class DebootstrapBase:
    """A Debian system that ``debootstrap`` makes from a package mirror: needs no image registry.

    Attributes:
        suite: Debian release, such as ``trixie``.
        mirror: URL of the mirror; a dated snapshot where builds must stay the same for longer.
        include: packages beside the essential ones.
    """

    suite: str
    mirror: str
    include: tuple[str, ...] = ()


@dataclass(frozen=True)
class FileCopy:
    """A file or folder, or a pattern of them, copied into the image before ``%post``.

    Attributes:
        source: on the host, relative to the folder in which the build is started.
        target: absolute, in the image.
    """

    source: str
    target: str

    def __post_init__(self) -> None:
        """Rejects what the definition file's syntax cannot hold."""
        for path in (self.source, self.target):
            if not path or path != "".join(path.split()):
                raise ValueError(f"%files: expected a path without white space, got {path!r}")


@dataclass(frozen=True)
class Label:
    """A name and a value that ``apptainer inspect`` shows."""

    name: str
    value: str

    def __post_init__(self) -> None:
        """Rejects what the definition file's syntax cannot hold."""
        if not self.name or self.name != "".join(self.name.split()):
            raise ValueError(f"%labels: expected a name without white space, got {self.name!r}")
        if self.value != " ".join(self.value.split()) or not self.value:
            raise ValueError(f"%labels: expected a value on one line with single spaces, got {self.value!r}")


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """An image: where it starts, what is copied, run and set.

    Attributes:
        base: where it starts.
        files: copied before ``post`` runs.
        labels: metadata.
        environment: shell text, run at every start of a container.
        post: shell text that installs, run once during the build.
        test: shell text that tests the image, after the build and by ``apptainer test``.
        runscript: shell text of ``apptainer run``.
        help: text of ``apptainer run-help``.
    """

    base: DockerBase | DebootstrapBase
    files: tuple[FileCopy, ...] = ()
    labels: tuple[Label, ...] = ()
    environment: str = ""
    post: str = ""
    test: str = ""
    runscript: str = ""
    help: str = ""

    def __post_init__(self) -> None:
        """Rejects text that a definition file cannot give back as it is."""
        for section in ("environment", "post", "test", "runscript", "help"):
            _require_section_text(section, getattr(self, section))


def _require_section_text(section: str, text: str) -> None:
    """A section ends at the next line that begins with ``%``, and blank lines around it carry no meaning."""
    lines = text.split("\n")
    if "\r" in text or text.splitlines() != [line for line in lines if text]:
        raise ValueError(f"%{section}: expected lines that end in a line feed, got another line break")
    if text and not (lines[0].strip() and lines[-1].strip()):
        raise ValueError(f"%{section}: expected no blank first or last line, got {text!r}")
    for line in lines:
        if line.lstrip().startswith("%"):
            raise ValueError(f"%{section}: expected no line that begins with %, got {line!r}")
