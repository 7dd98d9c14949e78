"""Where the embedded weights lie in the package."""

from __future__ import annotations

from pathlib import Path

_WEIGHTS = Path(__file__).parent / "weights"


def base_folder() -> Path:
    """Folder of the embedded vision-language model and its processor."""
    return _WEIGHTS / "base"


def audio_encoder_folder() -> Path:
    """Folder of the embedded audio encoder and its feature extractor."""
    return _WEIGHTS / "audio_encoder"
