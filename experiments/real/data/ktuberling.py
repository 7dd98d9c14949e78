"""KTuberling's sounds: words such as "hat" and "rocket", said in many languages, each by one speaker.

``sounds/<language>/<word>`` is a WAV or OGG file. The package does not name the speakers; they are taken for
others than those of Tux Paint and Asterisk, and all are held out. Source: the package's files.
"""

from __future__ import annotations

from pathlib import Path

from experiments.real.data.clips import Clip
from experiments.real.data.tuxpaint import LANGUAGES

PACKAGE = "ktuberling-data"

_SUFFIXES = (".ogg", ".wav")


def read_clips(package: Path) -> list[Clip]:
    """The words in the languages that are trained on, sorted by name."""
    folder = package / "usr/share/ktuberling/sounds"
    languages = {code or "en": language for code, language in LANGUAGES.items()} | {"it": "Italian"}
    return [
        Clip(
            name=(name := f"ktuberling-{code}-{path.stem}"),
            path=path,
            package=PACKAGE,
            keys=(f"word {name}",),
            speaker=f"ktuberling {code}",
            language=language,
            split="speaker",
        )
        for code, language in sorted(languages.items())
        for path in sorted((folder / code).glob("*"))
        if path.suffix in _SUFFIXES
    ]
