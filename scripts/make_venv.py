"""Makes .venv for this checkout; run by `make .venv` on Linux and macOS, with nothing but Python's own library.

The pinned dependencies (5 GB) are installed once per lock file and Python under ${SAFE_CACHE:-~/.cache/safe}/env-<key>;
.venv itself is small, holds the project and reads the dependencies from there.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements/lock.txt"
VENV = ROOT / ".venv"
PYTHON = getattr(sys, "_base_executable", sys.executable)
"""Where .venv is active, the interpreter that it was made from: .venv itself may have to go."""
PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")


def main() -> None:
    """Makes what is missing."""
    if sys.version_info < (3, 11):  # noqa: UP036 - whoever has an older one reads this line
        found = ".".join(map(str, sys.version_info[:3]))
        sys.exit(f"make_venv: expected Python 3.11 or later, got {found}; name another with PYTHON=/path/to/python")
    shared = shared_environment()
    if _read(VENV / "dependencies") != str(shared):
        make_venv(shared)
    install_project()


def shared_environment() -> Path:
    """The environment with the pinned dependencies, installed if it is not there."""
    described = f"{sys.version} {sys.base_prefix} {platform.machine()}\n"
    key = hashlib.sha256(LOCK.read_bytes() + described.encode()).hexdigest()[:16]
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "safe"
    folder = Path(os.environ.get("SAFE_CACHE") or default).absolute() / f"env-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(f"{folder.name}.lock")):  # two checkouts may ask for it at the same time
        if not (folder / "complete").exists():
            print(f"Installing the pinned dependencies into {folder} (5 GB, a few minutes)", flush=True)
            shutil.rmtree(folder, ignore_errors=True)
            run(PYTHON, "-m", "venv", folder)
            run(folder / "bin/python", *PIP, "--require-hashes", "-r", LOCK)
            (folder / "complete").touch()
    return folder


def make_venv(shared: Path) -> None:
    """Makes .venv, without the project."""
    shutil.rmtree(VENV, ignore_errors=True)
    run(PYTHON, "-m", "venv", "--without-pip", VENV)  # its own pip would hide the pinned one
    (site_packages(VENV) / "dependencies.pth").write_text(f"{site_packages(shared)}\n")
    for command in sorted((shared / "bin").iterdir()):  # pytest, torchrun and others, run by this checkout's Python
        own = VENV / "bin" / command.name
        if own.exists():
            continue
        with command.open("rb") as file:
            runs_python = file.readline().startswith(f"#!{shared}/bin/python".encode())
        if runs_python:
            own.write_text(f'#!/bin/sh\nexec "{VENV}/bin/python" "{command}" "$@"\n')
            own.chmod(0o755)
        else:
            own.symlink_to(command)
    (VENV / "dependencies").write_text(f"{shared}\n")


def install_project() -> None:
    """Installs the project editable; what pyproject.toml says about packages and commands is read then."""
    project = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + Path(__file__).read_bytes()).hexdigest()
    if _read(VENV / "project") == project:
        return
    # compat: the checkout stands in a .pth file, which editors can read, and not behind an import hook.
    options = ("--no-deps", "--no-build-isolation", "--config-settings", "editable_mode=compat", "--editable", ROOT)
    run(VENV / "bin/python", *PIP, *options)
    (VENV / "project").write_text(f"{project}\n")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Only one process at a time is inside, on this machine."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def site_packages(environment: Path) -> Path:
    """Where an environment has its packages."""
    program = "import sysconfig; print(sysconfig.get_path('purelib'))"
    command = [environment / "bin/python", "-c", program]
    return Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())


def run(*command: object) -> None:
    """Runs a command; the program ends with it if it fails."""
    done = subprocess.run([str(part) for part in command], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(f"make_venv: {' '.join(str(part) for part in command[:4])} ... failed")


def _read(path: Path) -> str:
    return path.read_text().strip() if path.is_file() else ""


if __name__ == "__main__":
    main()
