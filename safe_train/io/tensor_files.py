"""Writing safetensors with the permissions that any other new file has here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Writes tensors to a file.

    safetensors writes a private file (mode 0600) and renames it, whatever the umask says; colleagues could not read it.

    Raises:
        OSError: it cannot be written.
        SafetensorError: likewise; safetensors has an error of its own for a full disk.
    """
    path.touch()
    mode = path.stat().st_mode
    save_file(dict(tensors), path, dict(metadata) if metadata else None)
    path.chmod(mode)
