"""The data root of real recordings, photographs and texts: made once under SAFE's cache, named by what makes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from experiments.real.data.audio import build_audio
from experiments.real.data.text import build_text
from experiments.real.data.vqa import build_vqa
from experiments.real.folders import made_folder
from experiments.real.packages import PACKAGES, packages_key, unpacked

BUILDERS: tuple[Callable[[Path, Callable[[str], Path]], object], ...] = (build_vqa, build_text, build_audio)
"""Each builds its part of a data root from unpacked packages."""


def data_folder() -> Path:
    """The data root; made if it is not there."""
    data_packages = [name for name, package in PACKAGES.items() if package.part == "data"]
    modules = sorted(Path(__file__).parent.glob("*.py"))
    return made_folder("data", packages_key(data_packages, *modules), _build)


def _build(root: Path) -> None:
    for build in BUILDERS:
        build(root, unpacked)
