"""Tux Paint's stamps: spoken captions in several languages, numbers and letters, and sound effects.

A stamp ``<folder>/dog`` has a caption in ``dog.txt`` (in English on the first line), its spoken form in
``dog_desc_<language>.ogg``, in English ``dog_desc.ogg``, and the sound that it makes in ``dog.ogg``. Numbers
and letters are in ``symbols``. Source: the package's files and changelog.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from experiments.real.data.clips import Clip, Word
from experiments.real.data.words import NUMBER, NUMBERS

PACKAGE = "tuxpaint-stamps-default"

LANGUAGES = {
    "": "English", "be": "Belarusian", "bg": "Bulgarian", "ca": "Catalan", "da": "Danish", "el": "Greek",
    "es": "Spanish", "fr": "French", "ro": "Romanian", "ru": "Russian",
}  # fmt: skip
"""Spoken captions that are used, by suffix. Dutch (67 clips), Lithuanian, Malayalam and Portuguese have too few."""

NUMBER_LANGUAGES = ("", "es", "fr", "it")
"""Spoken numbers that are trained on: languages that other speakers of are held out for."""

BRITISH = "en_GB"
"""Suffix of the numbers and letters that one British speaker says, who says nothing else: held out."""

CATEGORIES = {"animals/birds": "bird", "animals/mammals": "mammal", "household": "household object"}
"""Kinds of sound effects, by folder; the other folders have too few."""

NON_FREE = frozenset({"vehicles/emergency/firetruck"})
"""Its sound is under the Sampling Plus licence, which the changelog calls non-free."""

_SPOKEN = re.compile(r"(?P<stamp>.+)_desc(?:_(?P<language>[a-z]{2}))?\.ogg")
_NUMBER = re.compile(r"(?P<number>\d)(?:_(?P<language>\w+))?\.ogg")
_LETTER = re.compile(r"(?P<letter>[a-z])_filled_en_GB\.ogg")


def read_clips(package: Path) -> list[Clip]:
    """All clips that are used, sorted by name."""
    stamps = package / "usr/share/tuxpaint/stamps"
    found = [*_read_captions(stamps), *_read_effects(stamps), *_read_numbers(stamps), *_read_letters(stamps)]
    return sorted(found, key=lambda clip: clip.name)


def _read_captions(stamps: Path) -> Iterator[Clip]:
    for path in stamps.rglob("*_desc*.ogg"):
        found = _SPOKEN.fullmatch(path.name)
        if found is None or _is_symbol(stamps, path):
            continue
        code = found["language"] or ""
        if code not in LANGUAGES:
            continue
        stamp = path.with_name(found["stamp"]).relative_to(stamps).as_posix()
        yield Clip(
            name=_name(stamp, code or "en"),
            path=path,
            package=PACKAGE,
            keys=_keys(stamps, stamp),
            speaker=f"tuxpaint {code or 'en'}",
            language=LANGUAGES[code],
        )


def _read_effects(stamps: Path) -> Iterator[Clip]:
    for path in stamps.rglob("*.ogg"):
        stamp = path.with_suffix("").relative_to(stamps).as_posix()
        if "_desc" in path.name or _is_symbol(stamps, path) or stamp in NON_FREE:
            continue
        yield Clip(
            name=_name(stamp, "sound"),
            path=path,
            package=PACKAGE,
            keys=_keys(stamps, stamp),
            text=read_caption(stamps, stamp),
            category=next((kind for folder, kind in CATEGORIES.items() if stamp.startswith(f"{folder}/")), ""),
        )


def _read_numbers(stamps: Path) -> Iterator[Clip]:
    for path in stamps.glob("symbols/math/*.ogg"):
        found = _NUMBER.fullmatch(path.name)
        if found is None:
            continue
        code = found["language"] or ""
        name = _name(f"symbols/math/{found['number']}", code or "en")
        if code == BRITISH:
            yield _british(name, path)
        elif code in NUMBER_LANGUAGES:
            speaker, word = f"tuxpaint numbers {code or 'en'}", Word(NUMBER, NUMBERS[found["number"]])
            yield Clip(name, path, PACKAGE, keys=(f"word {name}",), speaker=speaker, word=word, split="train")


def _read_letters(stamps: Path) -> Iterator[Clip]:
    for path in stamps.glob("symbols/alphabets/english/filled/lowercase/*.ogg"):
        if found := _LETTER.fullmatch(path.name):
            yield _british(_name(f"symbols/alphabets/{found['letter']}", BRITISH), path)


def _british(name: str, path: Path) -> Clip:
    return Clip(name, path, PACKAGE, (f"word {name}",), speaker="tuxpaint en_GB", language="English", split="speaker")


def read_caption(stamps: Path, stamp: str) -> str:
    """The caption of a stamp in English; empty if it has none."""
    path = stamps / f"{stamp}.txt"
    return path.read_text(encoding="utf-8").split("\n", 1)[0].strip() if path.is_file() else ""


def _keys(stamps: Path, stamp: str) -> tuple[str, ...]:
    """The picture and its caption: stamps of one caption show the same thing, and are spoken alike."""
    caption = read_caption(stamps, stamp).casefold()
    return (f"stamp {stamp}", f"caption {caption}") if caption else (f"stamp {stamp}",)


def _is_symbol(stamps: Path, path: Path) -> bool:
    return path.relative_to(stamps).parts[0] == "symbols"


def _name(stamp: str, ending: str) -> str:
    return f"tuxpaint-{stamp.replace('/', '-')}-{ending}"
