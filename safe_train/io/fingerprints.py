"""What results depend on: SHA-256 of tensors, files and JSON values, and versions."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from safe_train.errors import InputError
from safe_train.io.files import file_problem

_PACKAGES = ("safe-audio", "torch", "transformers", "torchaudio")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on; a source tree on the path has none of its own."""
    return {"python": platform.python_version()} | {package: _version(package) for package in _PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def tensors_sha256(named: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(named, key=lambda pair: pair[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 over a file's bytes.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(path, "a file", str(error.strerror), "check the path or remove its entry") from error


def content_sha256(path: Path) -> str:
    """The same, computed once for a file that stays as it is: by path, size, time of change and place on the disk.

    Raises:
        InputError: the path leads to no file, or it cannot be read.
    """
    if problem := file_problem(path):
        raise InputError(path, "a file", problem, "check the path or remove its entry")
    status = path.stat()
    return _known_sha256(path, status.st_size, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=2**20)
def _known_sha256(path: Path, _size: int, _changed: int, _place: int) -> str:
    return file_sha256(path)


def json_sha256(value: Any) -> str:
    """SHA-256 over a value as JSON with sorted keys; what JSON has no word for counts by its ``str``."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
