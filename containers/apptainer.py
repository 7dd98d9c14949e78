"""Apptainer, called as a process: builds, tests and looks into images."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from containers.definition import write_definition
from containers.image import ROOT, BuildChoices, safe_image
from safe_train.errors import InputError

CERTIFICATES_MOUNT = "/mnt"
WHEELS_MOUNT = "/media"
MANIFEST_LABEL = "org.safe.manifest"
FAST_COMPRESSION = "-comp zstd -Xcompression-level 3"
"""gzip on one core took eight of the thirteen minutes of a build; zstd is read faster, too."""


class BuildError(Exception):
    """Apptainer ended with an error; it has said why.

    Attributes:
        code: its exit code.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, kw_only=True)
class BuildInputs:
    """What the build machine lends to a build and the image does not keep.

    Attributes:
        certificates: PEM bundle that package downloads trust, for networks that inspect TLS.
        wheelhouse: folder of wheels for a build without the network.
    """

    certificates: Path | None = None
    wheelhouse: Path | None = None


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How Apptainer builds.

    Attributes:
        fakeroot: in a user namespace, as an ordinary user must.
        test: run ``%test`` at the end.
        compression: arguments for ``mksquashfs``.
    """

    fakeroot: bool
    test: bool
    compression: str


def program() -> str:
    """Path of Apptainer, or of SingularityCE, which takes the same options.

    Raises:
        InputError: neither is there.
    """
    found = shutil.which("apptainer") or shutil.which("singularity")
    if found is None:
        raise InputError("PATH", "apptainer", "none", "install it or load the site's module")
    return found


def build(output: Path, choices: BuildChoices, inputs: BuildInputs, options: BuildOptions) -> None:
    """Builds an image and puts it in place when it is complete.

    Files come from what git lists, so that nothing that lies about in a checkout gets into an image.

    Raises:
        BuildError: Apptainer failed.
        InputError: something that the build needs is not there.
    """
    partial = output.absolute().with_name(f".{output.name}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    spec = safe_image(choices)
    with tempfile.TemporaryDirectory(prefix="safe-build-") as scratch:
        stage, lent = Path(scratch, "stage"), Path(scratch, "lent")
        _stage([copy.source for copy in spec.files], stage)
        definition = Path(scratch, "safe.def")
        definition.write_text(write_definition(spec), encoding="utf-8")
        lent.mkdir()
        if inputs.certificates is not None:
            shutil.copyfile(_existing(inputs.certificates, "--ca-bundle"), lent / "ca.pem")
        command = [program(), "build", "--force", "--bind", f"{lent}:{CERTIFICATES_MOUNT}"]
        if inputs.wheelhouse is not None:
            command += ["--bind", f"{_existing(inputs.wheelhouse, '--wheelhouse').absolute()}:{WHEELS_MOUNT}"]
        command += ["--fakeroot"] if options.fakeroot else []
        command += [] if options.test else ["--notest"]
        command += ["--mksquashfs-args", options.compression, str(partial), str(definition)]
        try:
            _run(command, stage)
            partial.replace(output)
        finally:
            partial.unlink(missing_ok=True)


def test(image: Path) -> None:
    """Runs the image's ``%test``, on a GPU if there is one.

    Raises:
        BuildError: it failed.
    """
    _run([program(), "test", "--nv", str(_existing(image, "IMAGE").absolute())], Path.cwd())


def read_manifest(image: Path) -> str:
    """The image's contents, as :mod:`containers.manifest` lists them, gathered by the image's own Python.

    Raises:
        BuildError: Apptainer failed.
    """
    command = [program(), "--silent", "exec", "--containall", "--no-home", str(_existing(image, "IMAGE").absolute())]
    source = (ROOT / "containers" / "manifest.py").read_text(encoding="utf-8")
    return _output([*command, "/usr/bin/python3", "-B", "-", "/"], source)


def read_labels(image: Path) -> dict[str, str]:
    """The image's labels.

    Raises:
        BuildError: Apptainer failed.
    """
    answer = json.loads(_output([program(), "inspect", "--json", "--labels", str(_existing(image, "IMAGE"))]))
    return answer["data"]["attributes"]["labels"]


def commit() -> str | None:
    """The checkout's commit, with ``-dirty`` where files differ from it; None outside of git."""
    described = subprocess.run(
        ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return described.stdout.strip() if described.returncode == 0 else None


def _stage(patterns: Sequence[str], stage: Path) -> None:
    """Copies what the patterns name into a fresh folder: what git tracks, and new files that it does not ignore."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        raise InputError(ROOT, "a git checkout", listed.stderr.strip(), "build from a clone of the project")
    for name in listed.stdout.split("\0"):
        source = ROOT / name
        if not name or not (source.is_file() or source.is_symlink()):
            continue
        target = stage / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)
        if not source.is_symlink():
            target.chmod(0o755 if os.access(source, os.X_OK) else 0o644)


def _existing(path: Path, option: str) -> Path:
    if not path.exists():
        raise InputError(f"{option} {path}", "a path that exists", "none", "correct it")
    return path


def _run(command: Sequence[str], folder: Path) -> None:
    # The times of files in the image; two builds then differ in no file's time.
    environment = {"SOURCE_DATE_EPOCH": "1700000000"} | dict(os.environ)
    code = subprocess.run(command, cwd=folder, env=environment).returncode
    if code:
        raise BuildError(code)


def _output(command: Sequence[str], text: str = "") -> str:
    done = subprocess.run(command, input=text, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise BuildError(done.returncode)
    return done.stdout
