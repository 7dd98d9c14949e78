"""The image of SAFE: Debian, the locked Python packages, a compiler for Triton's stubs, and Slurm's commands.

``python -m containers.image`` writes ``containers/safe.def`` again.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path

from containers.definition import write_definition
from containers.spec import DebootstrapBase, DockerBase, FileCopy, ImageSpec, Label

ROOT = Path(__file__).parents[1]
DEFINITION = ROOT / "containers" / "safe.def"
PARTS = ROOT / "containers" / "parts"
LOCK = "requirements/lock.txt"

SUITE = "trixie"
DOCKER = DockerBase(image=f"debian:{SUITE}")
"""For where an image registry can be reached."""

SYSTEM_PACKAGES = (
    "ca-certificates",
    "python3",
    "python3-venv",
    # Triton compiles a stub at run time: without these, "Failed to find C compiler" or a missing Python.h.
    "python3-dev",
    "gcc",
    "g++",
    "libc6-dev",
    "slurm-client",
    "libmunge2",
)
_LABELED_PACKAGES = ("torch", "torchaudio", "triton", "transformers")
_SOURCE = "/opt/source"


@dataclass(frozen=True, kw_only=True)
class BuildChoices:
    """What one build may choose.

    Attributes:
        base: where the image starts.
        lock: hashed requirements, relative to the checkout; another torch build is another such file.
        index_url: package index, or None for pip's own.
        offline: install from a folder of wheels alone, which the build mounts at ``/media``.
        commit: commit of the checkout, or None to leave it out.
    """

    base: DockerBase | DebootstrapBase = DOCKER
    lock: str = LOCK
    index_url: str | None = None
    offline: bool = False
    commit: str | None = None


def safe_image(choices: BuildChoices = BuildChoices()) -> ImageSpec:
    """The specification of the image."""
    return ImageSpec(
        base=choices.base,
        files=_files(choices.lock),
        labels=_labels(choices),
        environment=_part("environment.sh"),
        post=f"{_assignments(choices)}\n{_part('post.sh')}",
        test=_part("test.sh"),
        runscript='exec safe "$@"',
        help=_part("help.txt"),
    )


def locked_versions(lock: Path) -> dict[str, str]:
    """Version by package of a lock file; of a package with several lines for several platforms, the first."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", lock.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(reversed(found))


def _files(lock: str) -> tuple[FileCopy, ...]:
    sources = ("pyproject.toml", "README.md", "LICENSE", "safe_kernels", "safe_train", "configs", "experiments")
    return (
        *(FileCopy(source, f"{_SOURCE}/{source}") for source in sources),
        FileCopy(lock, f"{_SOURCE}/requirements/lock.txt"),
        FileCopy("containers/manifest.py", f"{_SOURCE}/containers/manifest.py"),
        FileCopy("containers/parts/slurm_shim.sh", f"{_SOURCE}/containers/parts/slurm_shim.sh"),
    )


def _labels(choices: BuildChoices) -> tuple[Label, ...]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    versions = locked_versions(ROOT / choices.lock)
    labels = [
        Label("org.opencontainers.image.title", "SAFE"),
        Label("org.opencontainers.image.version", project["version"]),
        Label("org.opencontainers.image.licenses", project["license"]),
        *(Label(f"org.safe.{name}", versions[name]) for name in _LABELED_PACKAGES if name in versions),
    ]
    return (*labels, *([Label("org.opencontainers.image.revision", choices.commit)] if choices.commit else []))


def _assignments(choices: BuildChoices) -> str:
    """Choices as shell variables: build arguments of Apptainer are not recorded in an image, these lines are."""
    options = ["--no-index", "--find-links", "/media"] if choices.offline else []
    options += ["--index-url", choices.index_url] if choices.index_url else []
    lines = (
        f"system_packages={shlex.quote(' '.join(SYSTEM_PACKAGES))}",
        f"pip_options={shlex.quote(' '.join(options))}",
    )
    return "\n".join(lines)


def _part(name: str) -> str:
    """A part's text; the first line of a shell file tells ShellCheck the dialect and stays outside."""
    text = (PARTS / name).read_text(encoding="utf-8").strip("\n")
    first, _, rest = text.partition("\n")
    return rest if first.startswith("# shellcheck shell=") else text


def main() -> None:
    """Writes the definition of the default image."""
    DEFINITION.write_text(write_definition(safe_image()), encoding="utf-8")


if __name__ == "__main__":
    main()
