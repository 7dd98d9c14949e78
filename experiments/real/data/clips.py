"""Clips of the packages: what is known of them, and what their samples say."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from safe_train.errors import InputError
from safe_train.io.files import file_problem

SHORTEST_SECONDS, LONGEST_SECONDS = 0.1, 5.0
"""Clips of other lengths are left out; the audio encoder hears about 5 s."""

QUIETEST_PEAK = 0.01
"""Clips whose largest sample, full scale being 1, is smaller are left out as silent."""

SAME_CORRELATION = 0.8
"""Clips of one length whose samples correlate more than this are taken for one recording, edited or encoded anew."""

GSM = ".gsm"
"""Suffix of GSM 06.10 frames without a header: libsndfile decodes them, but cannot tell what they are."""

_FULL_SCALE = 32768


@dataclass(frozen=True)
class Word:
    """A question about the word that is said, and its answer."""

    question: str
    answer: str


@dataclass(frozen=True)
class Clip:
    """A clip and what its package says of it.

    Attributes:
        name: unique; the name of its file in the data root.
        path: the file in the package.
        package: the package.
        keys: clips that share one, directly or through others, lie in one split.
        speaker: who speaks; empty for other sounds.
        language: the spoken language in English; empty where it is not asked for.
        text: what is said, or the caption of a sound; empty if unknown.
        category: kind of sound; empty if it has none in the closed set.
        word: the word that is said, if it is asked for.
        split: the split that its speaker is held out for; empty where the keys decide.
    """

    name: str
    path: Path
    package: str
    keys: tuple[str, ...]
    speaker: str = ""
    language: str = ""
    text: str = ""
    category: str = ""
    word: Word | None = None
    split: str = ""


@dataclass(frozen=True)
class Recording:
    """A clip that has been decoded.

    Attributes:
        clip: the clip.
        frames: length in samples.
        rate: sampling rate in Hz.
        channels: number of channels.
        peak: largest absolute sample, full scale being 1.
        sha256: of rate and samples, so that neither the name nor the tags of a file make it another.
    """

    clip: Clip
    frames: int
    rate: int
    channels: int
    peak: float
    sha256: str

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.frames / self.rate

    @property
    def is_usable(self) -> bool:
        """Whether it is neither too short nor too long nor silent."""
        return SHORTEST_SECONDS <= self.seconds <= LONGEST_SECONDS and self.peak >= QUIETEST_PEAK


def decode(path: Path) -> tuple[np.ndarray, int]:
    """Samples, int16 [frames, channels], and rate in Hz.

    Raises:
        InputError: the file is missing or libsndfile cannot decode it.
    """
    if problem := file_problem(path):
        raise InputError(path, "an audio file of the package", problem, "unpack the package again")
    headless = {"format": "RAW", "subtype": "GSM610", "samplerate": 8000, "channels": 1} if path.suffix == GSM else {}
    try:
        return soundfile.read(path, dtype="int16", always_2d=True, **headless)
    except soundfile.LibsndfileError as error:
        raise InputError(path, "audio that libsndfile decodes", str(error), "unpack the package again") from error


def measure(clip: Clip) -> Recording:
    """Decodes a clip.

    Raises:
        InputError: as :func:`decode`.
    """
    samples, rate = decode(clip.path)
    digest = hashlib.sha256(f"{rate} {samples.shape[1]} ".encode() + samples.tobytes()).hexdigest()
    peak = float(np.abs(samples.astype(np.int32)).max(initial=0)) / _FULL_SCALE
    return Recording(clip, len(samples), rate, samples.shape[1], peak, digest)


def group_recordings(recordings: Sequence[Recording]) -> dict[str, str]:
    """By name of a clip, the smallest key of its group.

    A group is a connected component: clips are joined by a shared key, and by samples that are equal or correlate more
    than ``SAME_CORRELATION``.
    """
    parents: dict[str, str] = {}
    for each in recordings:
        for key in each.clip.keys:
            _join(parents, each.clip.keys[0], key)
    for one, other in find_near_duplicates(recordings):
        _join(parents, one.clip.keys[0], other.clip.keys[0])
    members: dict[str, set[str]] = defaultdict(set)
    for key in parents:
        members[_find(parents, key)].add(key)
    return {each.clip.name: min(members[_find(parents, each.clip.keys[0])]) for each in recordings}


def find_near_duplicates(recordings: Iterable[Recording]) -> Iterator[tuple[Recording, Recording]]:
    """Pairs of equal rate and length whose mono samples correlate more than ``SAME_CORRELATION``, also inverted."""
    by_length: dict[tuple[int, int], list[Recording]] = defaultdict(list)
    for each in recordings:
        by_length[each.rate, each.frames].append(each)
    for group in by_length.values():
        if len(group) < 2:
            continue
        signals = np.stack([_normalized(decode(each.clip.path)[0]) for each in group])
        for i, j in np.argwhere(np.triu(np.abs(signals @ signals.T) > SAME_CORRELATION, k=1)):
            yield group[i], group[j]


def _normalized(samples: np.ndarray) -> np.ndarray:
    """Mono, without its mean, of norm 1, or 0 where it is constant."""
    mono = samples.mean(axis=1)
    mono -= mono.mean() if len(mono) else 0.0
    return mono / (np.linalg.norm(mono) or 1.0)


def _find(parents: dict[str, str], key: str) -> str:
    while parents.setdefault(key, key) != key:
        parents[key] = key = parents[parents[key]]
    return key


def _join(parents: dict[str, str], one: str, other: str) -> None:
    parents[_find(parents, one)] = _find(parents, other)
