"""Which clips are asked about, and in which split: held out by picture, prompt, speaker or sound, never by row."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

from experiments.real.data.clips import Recording
from safe_train.errors import InputError

LANGUAGE_QUESTION = "Which language is spoken?"
SOUND_QUESTION = "What kind of sound is this?"

HELD_OUT_SPEAKERS = "speaker"
"""The split of languages said by speakers who are not trained on."""

SHARES = {"train": 0.72, "val": 0.16, "tune": 0.12}
"""Shares of the splits among groups."""

SOUND_SHARES = {"val": 0.33, "tune": 0.15}
"""Shares of the clips of each kind of sound: they are few, and fewer would test nothing."""

LANGUAGE_CLIPS = {"train": 100, "val": 14, "tune": 11, HELD_OUT_SPEAKERS: 24}
"""Clips of each language, if there are as many: equal, so that no language is the one to guess."""

LONGEST_CAPTION = 6
"""Words of the longest caption: what is longer tells of rules or origins, or is a prompt of several sentences."""

_SEED = 0


@dataclass(frozen=True)
class Row:
    """A question about a clip."""

    recording: Recording
    group: str
    split: str
    kind: str
    question: str
    answer: str


def drop_repeats(recordings: Iterable[Recording]) -> list[Recording]:
    """The first recording of each content."""
    first: dict[str, Recording] = {}
    for each in recordings:
        first.setdefault(each.sha256, each)
    return list(first.values())


def assign_splits(recordings: Sequence[Recording], groups: Mapping[str, str]) -> dict[str, str]:
    """By group, its split.

    The groups of each kind of sound are divided apart, so that every split has every kind; the others fall into the
    splits by a hash, so that a new clip moves no other.
    """
    by_category: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for each in recordings:
        if each.clip.category:
            by_category[each.clip.category][groups[each.clip.name]] += 1
    splits: dict[str, str] = {}
    for _, sizes in sorted(by_category.items()):
        _divide({group: size for group, size in sizes.items() if group not in splits}, splits)
    for group in sorted(set(groups.values()) - splits.keys()):
        splits[group] = _split_by_hash(group)
    return splits


def _divide(sizes: Mapping[str, int], splits: dict[str, str]) -> None:
    """Gives ``val`` and ``tune`` groups as long as they fit into their share of the clips, and ``train`` the rest."""
    total = sum(sizes.values())
    remaining = {split: max(1, round(share * total)) for split, share in SOUND_SHARES.items()}
    for group in sorted(sizes, key=_position):
        split = next((split for split, left in remaining.items() if sizes[group] <= left), "train")
        splits[group] = split
        if split in remaining:
            remaining[split] -= sizes[group]


def _split_by_hash(group: str) -> str:
    position = _position(group)
    for split, share in SHARES.items():
        position -= share
        if position < 0:
            return split
    return next(reversed(SHARES))  # the shares' sum may be less than 1 by rounding


def _position(name: str) -> float:
    """A number in [0, 1) by which names are ordered and divided at random, always alike."""
    return int.from_bytes(hashlib.sha256(f"{_SEED} {name}".encode()).digest()[:6]) / 2**48


def select_words(recordings: Iterable[Recording], groups: Mapping[str, str]) -> list[Row]:
    """Every single word; the speaker decides the split."""
    return [
        Row(each, groups[each.clip.name], each.clip.split, "Word", each.clip.word.question, each.clip.word.answer)
        for each in recordings
        if each.clip.word
    ]


def select_sounds(recordings: Iterable[Recording], groups: Mapping[str, str], splits: Mapping[str, str]) -> list[Row]:
    """Every sound of the closed set of categories."""
    return [
        Row(each, group := groups[each.clip.name], splits[group], "Sound", SOUND_QUESTION, each.clip.category)
        for each in recordings
        if each.clip.category
    ]


def select_languages(
    recordings: Iterable[Recording], groups: Mapping[str, str], splits: Mapping[str, str], taken: set[str]
) -> list[Row]:
    """Equally many clips of each language, of its packages in turn; groups that are ``taken`` are left out."""
    pools: dict[tuple[str, str], dict[str, list[Recording]]] = defaultdict(lambda: defaultdict(list))
    for each in sorted(recordings, key=lambda each: _position(each.clip.name)):
        group = groups[each.clip.name]
        if each.clip.language and group not in taken:
            pools[each.clip.split or splits[group], each.clip.language][each.clip.package].append(each)
    rows = []
    for (split, language), by_package in sorted(pools.items()):
        in_turn = chain.from_iterable(zip_longest(*(pool for _, pool in sorted(by_package.items()))))
        chosen = [each for each in in_turn if each is not None][: LANGUAGE_CLIPS[split]]
        rows += [Row(c, groups[c.clip.name], split, "Language", LANGUAGE_QUESTION, language) for c in chosen]
    return rows


def select_captions(
    recordings: Iterable[Recording], groups: Mapping[str, str], splits: Mapping[str, str], taken: set[str]
) -> list[Row]:
    """Prompts in English with their transcript, and sounds with their caption, if these are short."""
    rows = []
    for each in recordings:
        clip, group = each.clip, groups[each.clip.name]
        is_prompt = clip.language == "English" and not clip.split
        is_short = 0 < len(clip.text.split()) <= LONGEST_CAPTION
        if is_short and group not in taken and (is_prompt or not clip.speaker):
            rows.append(Row(each, group, splits[group], "Prompt" if is_prompt else "Effect", "", clip.text))
    return rows


def require_disjoint(rows: Iterable[Row]) -> None:
    """Nothing that is held out is in two splits: no content and no group, and no speaker of ``val`` in ``train``.

    Raises:
        InputError: something is.
    """
    places: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for row in rows:
        name = row.recording.clip.name
        places["content", row.recording.sha256].setdefault(row.split, name)
        places["group", row.group].setdefault(row.split, name)
        if row.kind == "Word":
            places["speaker of words", row.recording.clip.speaker].setdefault(row.split, name)
        if row.split in ("train", HELD_OUT_SPEAKERS):
            places["speaker", row.recording.clip.speaker].setdefault(row.split, name)
    for (what, value), by_split in places.items():
        if len(by_split) > 1 and value:
            got = ", ".join(f"{name} in {split}" for split, name in sorted(by_split.items()))
            raise InputError(f"{what} {value}", "one split", got, "mend the rules of experiments/real/data")
