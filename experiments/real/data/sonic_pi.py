"""Sonic Pi's samples: short recordings of instruments and machines, public domain (CC0), labelled by their names."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from experiments.real.data.clips import Clip

PACKAGE = "sonic-pi-samples"

CATEGORIES = {
    "kick drum": ("bd_*", "drum_heavy_kick", "drum_bass_*", "elec_soft_kick", "elec_hollow_kick"),
    "snare drum": ("sn_*", "drum_snare_*", "elec_*snare"),
    "tom drum": ("drum_tom_*", "elec_fuzz_tom"),
    "cymbal": ("drum_cymbal_*", "drum_splash_*", "elec_cymbal"),
    "tabla": ("tabla_*",),
    "bass": ("bass_*", "glitch_bass_*"),
    "robot": ("mehackit_robot*", "glitch_robot*"),
    "drum loop": (
        "loop_amen*", "loop_breakbeat", "loop_electric", "loop_industrial", "loop_mehackit*", "loop_perc*",
    ),
}  # fmt: skip
"""Kinds of sounds, by names; the others have too few to learn from and to test."""

_MEANINGS = {
    "ambi": "ambient sound", "bd": "bass drum", "elec": "electronic sound", "guit": "guitar", "perc": "percussion",
    "sn": "snare drum", "mehackit": "electronic sound", "misc": "sound", "vinyl": "vinyl record",
}  # fmt: skip
_STROKES = ("hard", "soft", "hit")


def read_clips(package: Path) -> list[Clip]:
    """All samples, sorted by name."""
    folder = package / "usr/share/sonic-pi/samples"
    return [
        Clip(
            name=f"sonic-pi-{path.stem}",
            path=path,
            package=PACKAGE,
            keys=(f"sample {find_family(path.stem)}",),
            text=describe(path.stem),
            category=find_category(path.stem),
        )
        for path in sorted(folder.glob("*.flac"))
    ]


def find_category(name: str) -> str:
    """The kind of a sample, or nothing."""
    return next((kind for kind, names in CATEGORIES.items() if any(fnmatch(name, each) for each in names)), "")


def find_family(name: str) -> str:
    """What several takes of one sound share: ``drum_tom_hi`` of its hard and soft stroke, ``tabla_te`` of all four."""
    parts = name.split("_")
    if parts[0] == "tabla":
        parts = parts[:2]
    elif parts[-1] in _STROKES and len(parts) > 2:
        parts = parts[:-1]
    return "_".join(parts).rstrip("0123456789") if parts[0] in ("tabla", "elec") else "_".join(parts)


def describe(name: str) -> str:
    """A caption from a name: ``bass drum, haus`` for ``bd_haus``."""
    first, *others = name.split("_")
    return f"{_MEANINGS.get(first, first)}, {' '.join(others)}"
