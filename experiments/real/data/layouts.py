"""Writes clips and their questions or captions in the layouts of MUSIC-AVQA, AudioCaps and WavCaps."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import soundfile

from experiments.real.data.clips import GSM, Recording, decode
from experiments.real.data.selection import HELD_OUT_SPEAKERS, Row
from safe_train.io.files import json_text, write_text

_COLUMNS = (
    "video_id", "kind", "split", "answer", "speaker", "language", "group", "package", "file",
    "seconds", "rate", "channels", "sha256",
)  # fmt: skip


def place_clip(recording: Recording, folder: Path, stem: str) -> None:
    """Puts a clip into a folder, by a hard link where the file system allows it; GSM frames become a WAV file."""
    folder.mkdir(parents=True, exist_ok=True)
    source = recording.clip.path
    if source.suffix == GSM:
        soundfile.write(folder / f"{stem}.wav", *decode(source), subtype="PCM_16")
        return
    target = folder / f"{stem}{source.suffix}"
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def write_avqa(folder: Path, rows: Sequence[Row]) -> None:
    """MUSIC-AVQA's lists, ``avqa-<split>.json``, and its ``audio/<video_id>``; and what is known of the clips.

    Clips of the split ``speaker`` are asked for in ``val``, as a type of question of their own.
    """
    by_split: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for number, row in enumerate(rows, start=1):
        name = row.recording.clip.name
        place_clip(row.recording, folder / "audio", name)
        is_new = row.split == HELD_OUT_SPEAKERS
        by_split["val" if is_new else row.split].append(
            {
                "video_id": name,
                "question_id": number,
                "type": json.dumps(["Audio", f"{row.kind}, new speaker" if is_new else row.kind]),
                "question_content": row.question,
                "templ_values": "[]",
                "question_deleted": 0,
                "anser": row.answer,
            }
        )
    for split, entries in by_split.items():
        write_text(folder / f"avqa-{split}.json", json.dumps(entries, ensure_ascii=False, indent=1) + "\n")
    write_text(folder / "clips.csv", _table(_COLUMNS, map(_describe, rows)))
    write_text(folder / "summary.json", json_text(summarize(rows)))


def write_audiocaps(folder: Path, rows: Iterable[Row]) -> None:
    """AudioCaps' tables, ``<split>.csv``, and its ``audio/<split>/<youtube_id>_<start_time>``."""
    by_split: dict[str, list[list[Any]]] = defaultdict(list)
    for number, row in enumerate(rows, start=1):
        name = row.recording.clip.name
        place_clip(row.recording, folder / "audio" / row.split, f"{name}_0")
        by_split[row.split].append([number, name, 0, row.answer])
    for split, lines in by_split.items():
        columns = ("audiocap_id", "youtube_id", "start_time", "caption")
        write_text(folder / f"{split}.csv", _table(columns, lines))


def write_wavcaps(folder: Path, rows: Iterable[Row]) -> None:
    """WavCaps' list of one collection for ``train``, its only split, and lists of our own for the others."""
    by_split: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        clip = row.recording.clip
        place_clip(row.recording, folder / "FreeSound", clip.name)
        entry = {"id": clip.name, "caption": row.answer}
        if row.split != "train":
            entry["audio"] = f"FreeSound/{clip.name}{clip.path.suffix}"
        by_split[row.split].append(entry)
    for split, entries in by_split.items():
        if split == "train":
            content = {"num_captions_per_audio": 1, "data": entries}
            write_text(folder / "json_files/FreeSound/fsd_final.json", json_text(content))
        else:
            write_text(folder / f"wavcaps_{split}.json", json.dumps(entries, indent=1) + "\n")


def summarize(rows: Iterable[Row]) -> dict[str, Any]:
    """By kind and split: number of clips, seconds, how often each answer, and what guessing scores.

    ``majority`` is the accuracy of the answer that is most frequent in ``train`` for the question, the first in the
    alphabet of several; ``largest`` is the share of the split's own most frequent answer. ``format`` knows the sampling
    rate and the number of channels, too: what it scores above ``majority`` tells how far the recordings, and not what
    is said, give the answer away.
    """
    by_kind: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        by_kind[row.kind][row.split].append(row)
    return {
        kind: {
            split: {
                "clips": len(members),
                "seconds": round(sum(row.recording.seconds for row in members), 1),
                "speakers": len({row.recording.clip.speaker for row in members} - {""}),
                "largest": round(Counter(row.answer for row in members).most_common(1)[0][1] / len(members), 4),
                "majority": _guess(by_split["train"], members, lambda row: (row.question,)),
                "format": _guess(by_split["train"], members, _format_of),
                "answers": dict(sorted(Counter(row.answer for row in members).items())),
            }
            for split, members in sorted(by_split.items())
        }
        for kind, by_split in sorted(by_kind.items())
    }


def _format_of(row: Row) -> tuple[str, ...]:
    return (row.question, str(row.recording.rate), str(row.recording.channels))


def _guess(known: Iterable[Row], asked: Sequence[Row], condition: Callable[[Row], tuple[str, ...]]) -> float:
    """Accuracy of the most frequent known answer under the same condition, or to the same question where none is."""
    counts: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for row in known:
        counts[condition(row)][row.answer] += 1
        counts[(row.question,)][row.answer] += condition(row) != (row.question,)
    right = 0
    for row in asked:
        seen = counts.get(condition(row)) or counts.get((row.question,)) or Counter()
        best = min(seen, key=lambda answer: (-seen[answer], answer), default="")
        right += best == row.answer
    return round(right / len(asked), 4)


def _describe(row: Row) -> list[Any]:
    recording, clip = row.recording, row.recording.clip
    package_file = f"usr/{clip.path.as_posix().rpartition('/usr/')[2]}"
    return [
        clip.name, row.kind, row.split, row.answer, clip.speaker, clip.language, row.group, clip.package, package_file,
        round(recording.seconds, 3), recording.rate, recording.channels, recording.sha256,
    ]  # fmt: skip


def _table(columns: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(lines)
    return text.getvalue()
