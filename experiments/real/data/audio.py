"""Builds the audio part of a data root from Debian packages: recordings of people, animals, instruments and machines.

Three sets, each in its official layout:

- ``avqa`` (MUSIC-AVQA): which language is spoken, which word is said, what kind of sound it is;
- ``audiocaps``: prompts in English with their transcripts, and sound effects with their captions;
- ``wavcaps``: short recordings of instruments and machines with captions.

Splits are ``train``, ``val`` and ``tune``. In ``avqa``, ``val`` also asks for languages of speakers who are not trained
on, as the type ``Language, new speaker``; ``clips.csv`` and ``summary.json`` call these clips the split ``speaker``.

Language is confounded with the speaker and with the recording: almost every language has one or two speakers, each with
a microphone and format of their own. ``avqa/summary.json`` has beside each kind what guessing by question, and by
question and format, scores; the split ``speaker`` tells how much of the rest is language.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from experiments.real.data import asterisk, ktuberling, sonic_pi, tuxpaint
from experiments.real.data.clips import Recording, group_recordings, measure
from experiments.real.data.layouts import write_audiocaps, write_avqa, write_wavcaps
from experiments.real.data.selection import (
    Row,
    assign_splits,
    drop_repeats,
    require_disjoint,
    select_captions,
    select_languages,
    select_sounds,
    select_words,
)
from safe_train.errors import InputError

PACKAGES = tuple(sorted({tuxpaint.PACKAGE, ktuberling.PACKAGE, sonic_pi.PACKAGE, *asterisk.PACKAGES}))
"""The packages that it reads."""

SETS = ("avqa", "audiocaps", "wavcaps")


def build_audio(root: Path, packages: Callable[[str], Path]) -> None:
    """Writes ``avqa``, ``audiocaps`` and ``wavcaps`` into a data root; the same files always.

    Args:
        root: the data root, which has none of the three.
        packages: by name of a package of :data:`PACKAGES`, the folder that it is unpacked in.

    Raises:
        InputError: the root has one of the sets, or a file of a package is missing or damaged.
    """
    if present := [name for name in SETS if (root / name).exists()]:
        raise InputError(root, f"a data root without {', '.join(SETS)}", ", ".join(present), "name an empty folder")
    questions, captions, samples = select_rows(read_recordings(packages))
    write_avqa(root / "avqa", questions)
    write_audiocaps(root / "audiocaps", captions)
    write_wavcaps(root / "wavcaps", samples)


def read_recordings(packages: Callable[[str], Path]) -> list[Recording]:
    """The clips of all packages that are long, short and loud enough, words first.

    Raises:
        InputError: a file of a package is missing or damaged.
    """
    clips = [
        *asterisk.read_clips(packages),
        *tuxpaint.read_clips(packages(tuxpaint.PACKAGE)),
        *ktuberling.read_clips(packages(ktuberling.PACKAGE)),
        *sonic_pi.read_clips(packages(sonic_pi.PACKAGE)),
    ]
    clips.sort(key=lambda clip: (clip.word is None, not clip.category, clip.name))
    return [recording for recording in map(measure, clips) if recording.is_usable]


def select_rows(recordings: list[Recording]) -> tuple[list[Row], list[Row], list[Row]]:
    """The rows of ``avqa``, ``audiocaps`` and ``wavcaps``.

    Raises:
        InputError: something that is held out is in two splits.
    """
    groups = group_recordings(recordings)
    kept = drop_repeats(recordings)
    splits = assign_splits(kept, groups)
    words = select_words(kept, groups)
    spoken = {row.group for row in words}
    sounds = select_sounds(kept, groups, splits)
    languages = select_languages(kept, groups, splits, spoken)
    captions = select_captions(kept, groups, splits, spoken)
    samples = [row for row in captions if row.recording.clip.package == sonic_pi.PACKAGE]
    captions = [row for row in captions if row.recording.clip.package != sonic_pi.PACKAGE]
    questions = [*languages, *sounds, *words]
    require_disjoint([*questions, *captions, *samples])
    return questions, captions, samples
