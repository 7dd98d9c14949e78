"""Asterisk's voice prompts: the same prompts in several languages, in some by two speakers.

``<prompt>.wav`` is one prompt; ``digits/`` and ``letters/`` hold single words. ``core-sounds-<language>.txt.gz`` in the
package without suffix has a line ``<prompt>: <transcript>`` for each; the prompts of the other packages have no
transcripts. Source: the packages' files.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from experiments.real.data.clips import Clip, Word
from experiments.real.data.words import (
    LETTER,
    LETTERS,
    MONTH,
    MONTHS,
    NUMBER,
    NUMBERS,
    ORDINAL,
    ORDINALS,
    WEEKDAY,
    WEEKDAYS,
)
from safe_train.errors import InputError
from safe_train.io.files import file_problem


@dataclass(frozen=True)
class Voice:
    """A speaker and the package of the recordings.

    Attributes:
        name: of the speaker, as in the package's folder or copyright file.
        language: the language in English.
        package: the package of the recordings.
        folder: folder of the prompts, below ``usr/share/asterisk/sounds``.
        transcripts: the package of the transcripts and the language's code, or None.
        word_split: the split of the single words: speakers are held out.
        held_out: whether the other prompts are a test of an unknown speaker, not to be trained on.
    """

    name: str
    language: str
    package: str
    folder: str
    transcripts: tuple[str, str] | None
    word_split: str
    held_out: bool = False


def _core(name: str, language: str, code: str, folder: str) -> Voice:
    package = f"asterisk-core-sounds-{code}"
    return Voice(name, language, f"{package}-wav", folder, (package, code), "train")


VOICES = (
    _core("Allison en", "English", "en", "en_US_f_Allison"),
    _core("Allison es", "Spanish", "es", "es_MX_f_Allison"),
    _core("June", "French", "fr", "fr_CA_f_June"),
    _core("Carlo", "Italian", "it", "it_IT_m_Carlo"),
    _core("IvrvoiceRU", "Russian", "ru", "ru_RU_f_IvrvoiceRU"),
    Voice("Armelle", "French", "asterisk-prompt-fr-armelle", "fr", None, "val", held_out=True),
    Voice("July", "Spanish", "asterisk-prompt-es-co", "es", None, "val", held_out=True),
    Voice("Menardi", "Italian", "asterisk-prompt-it-menardi-wav", "it_IT_f_Menardi", None, "tune", held_out=True),
)
"""Allison Smith speaks English and Spanish, so that these differ by nothing but the language."""

PACKAGES = tuple(sorted({name for voice in VOICES for name in (voice.package, *(voice.transcripts or ())[:1])}))

NOT_SPEECH = frozenset(
    {
        "ascending-2tone", "beep", "beeperr", "confbridge-join", "confbridge-leave", "descending-2tone", "tt-monkeys",
        "letters/space",
    }
)  # fmt: skip
"""Prompts that are no speech, and a word that is left out in some languages."""

_SUFFIXES = (".wav", ".gsm")
_IN_BRACKETS = re.compile(r"\[[^]]*\]|\([^)]*\)")


def read_clips(packages: Callable[[str], Path]) -> list[Clip]:
    """All clips that are used, sorted by name.

    Raises:
        InputError: the transcripts of a voice are missing.
    """
    return sorted((clip for voice in VOICES for clip in _read_voice(voice, packages)), key=lambda clip: clip.name)


def _read_voice(voice: Voice, packages: Callable[[str], Path]) -> Iterator[Clip]:
    folder = packages(voice.package) / "usr/share/asterisk/sounds" / voice.folder
    transcripts = read_transcripts(packages(voice.transcripts[0]), voice.transcripts[1]) if voice.transcripts else {}
    for path in folder.rglob("*"):
        prompt = path.relative_to(folder).with_suffix("").as_posix()
        if path.suffix in _SUFFIXES and not prompt.startswith("silence/") and prompt not in NOT_SPEECH:
            yield _read_prompt(voice, path, prompt, transcripts)


def _read_prompt(voice: Voice, path: Path, prompt: str, transcripts: Mapping[str, str]) -> Clip:
    name = f"asterisk-{voice.name.lower().replace(' ', '-')}-{prompt.replace('/', '-')}"
    if word := find_word(prompt):
        return Clip(name, path, voice.package, (f"word {name}",), speaker=voice.name, word=word, split=voice.word_split)
    text = transcripts.get(prompt, "")
    own = f"prompt {voice.name} {prompt}"
    keys = (own,) if voice.held_out else (f"prompt {prompt}", own)
    return Clip(
        name=name,
        path=path,
        package=voice.package,
        keys=(*keys, f"transcript {voice.language} {_normalize(text)}") if text else keys,
        speaker=voice.name,
        language=voice.language,
        text=text,
        split="speaker" if voice.held_out else "",
    )


def find_word(prompt: str) -> Word | None:
    """The word of a prompt, such as ``digits/7``, ``digits/h-7``, ``digits/day-0`` or ``letters/a``; None of others."""
    folder, _, name = prompt.rpartition("/")
    if folder == "letters" and name in LETTERS:
        return Word(LETTER, LETTERS[name])
    if folder != "digits":
        return None
    if name in NUMBERS:
        return Word(NUMBER, NUMBERS[name])
    part, _, number = name.partition("-")
    if part == "h" and number in ORDINALS:
        return Word(ORDINAL, ORDINALS[number])
    if part == "day" and number.isdecimal():
        return Word(WEEKDAY, WEEKDAYS[int(number)])
    if part == "mon" and number.isdecimal():
        return Word(MONTH, MONTHS[int(number)])
    return None


def read_transcripts(package: Path, code: str) -> dict[str, str]:
    """By prompt, what is said, without remarks in brackets; empty where the recording is no speech.

    Raises:
        InputError: the file is missing.
    """
    path = package / f"usr/share/doc/asterisk-core-sounds-{code}/core-sounds-{code}.txt.gz"
    if problem := file_problem(path):
        raise InputError(path, "the transcripts of the prompts", problem, "unpack the package again")
    with gzip.open(path, "rt", encoding="utf-8-sig") as file:
        lines = [line.partition(":") for line in file if not line.startswith(";") and ":" in line]
    return {prompt.strip(): " ".join(_IN_BRACKETS.sub(" ", text).split()) for prompt, _, text in lines}


def _normalize(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))
