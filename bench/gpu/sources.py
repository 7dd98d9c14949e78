"""Which code a figure belongs to, in a copy without version control, too."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FOLDERS = ("safe_kernels", "safe_train", "configs", "bench", "tests/kernels")
_FILES = ("pyproject.toml", "tests/conftest.py", "tests/tolerances.py")


def source_digest(root: Path = ROOT) -> str:
    """Sixteen digits of a hash over names and contents of all that the steps run."""
    paths = [root / name for name in _FILES]
    paths += [path for folder in _FOLDERS for path in (root / folder).rglob("*.py")]
    found = hashlib.sha256()
    for path in sorted(path for path in paths if path.is_file()):
        content = path.read_bytes()
        found.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode() + content)
    return found.hexdigest()[:16]


def commit(root: Path = ROOT) -> str | None:
    """The commit, with `+` where files differ from it; None without version control."""
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None

    def git(*arguments: str) -> str | None:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    head, changes = git("rev-parse", "HEAD"), git("status", "--porcelain")
    return None if head is None else head + ("+" if changes else "")
