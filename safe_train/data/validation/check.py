"""The check of a data folder: every list is read, every audio file decoded and every image opened, one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safe_train.audio.file import HEARABLE_RATE, WHOLE
from safe_train.audio.formats import CONTAINERS
from safe_train.audio.waveform import HEARABLE_LENGTH, SOUND, measure
from safe_train.data.datasets.issues import Issue, IssueKind, ListedRecord
from safe_train.data.datasets.manifest import require_folder
from safe_train.data.datasets.reader import DatasetReader
from safe_train.data.datasets.registry import DATASETS, checked_names, suggest
from safe_train.data.image import load_image
from safe_train.data.validation.report import SetReport, Tally
from safe_train.errors import InputError
from safe_train.io.files import file_problem

SPLITS = ("train", "val", "test")

# How the reader tells what it refuses.
_KINDS = {
    SOUND: IssueKind.EMPTY_AUDIO,
    HEARABLE_LENGTH: IssueKind.SHORT_AUDIO,
    HEARABLE_RATE: IssueKind.LOW_RATE,
    WHOLE: IssueKind.TRUNCATED_AUDIO,
}

# Bytes of a file in which its format chunk is looked for; other chunks may come first.
_HEADER_BYTES = 4096


@dataclass(frozen=True)
class _Present:
    """A data set in the folder, and the readers of its parts that are present."""

    name: str
    readers: tuple[DatasetReader[Any], ...]

    @property
    def has_splits(self) -> bool:
        return any(reader.has_splits for reader in self.readers)

    def readers_of(self, root: Path, split: str) -> list[DatasetReader[Any]]:
        return [reader for reader in self.readers if not reader.has_splits or reader.has_split(root, split)]

    def has_split(self, root: Path, split: str) -> bool:
        return self.has_splits and bool(self.readers_of(root, split))


def check_root(root: Path, *, sets: Sequence[str] = (), splits: Sequence[str] = ()) -> Iterator[SetReport]:
    """Checks what a data folder holds, set by set and split by split.

    A report is given when its set is done. Memory: the lists of one split, 8 bytes for each clip, and the audio file
    or image that is being read.

    Args:
        root: the data root, or a data pack.
        sets: names of :func:`~safe_train.data.datasets.registry.checked_names`; none for all that are there.
        splits: none for those of train, val and test that are there.

    Raises:
        InputError: there is no such folder, no data set in it, a named set is not known or not there, or no set has a
            named split.
    """
    present = _find_present(root, sets)
    for split in splits:
        if any(found.has_splits for found in present) and not any(found.has_split(root, split) for found in present):
            names = ", ".join(found.name for found in present)
            raise InputError(root, f"a list of the split {split}", f"none in {names}", "name another split")
    return _report_each(root, present, splits or SPLITS, named=bool(splits))


def require_no_issues(root: Path, reports: Sequence[SetReport]) -> None:
    """InputError with the number of issues, if there are any."""
    found = [issue for report in reports for issue in report.defects]
    if found:
        count, kinds = sum(issue.count for issue in found), len({issue.kind for issue in found})
        counts = f"{count} defect{'' if count == 1 else 's'} of {kinds} kind{'' if kinds == 1 else 's'}"
        raise InputError(root, "data without defects", counts, "mend or remove what the report names")


def _find_present(root: Path, sets: Sequence[str]) -> list[_Present]:
    known = checked_names()
    if unknown := [name for name in sets if name not in known]:
        hint = suggest(unknown[0], known)
        raise InputError("--set", f"one of {', '.join(known)}", repr(unknown[0]), hint)
    require_folder(root, "a data root or a data pack", "mend the path")
    found = {name: readers for name in known if (readers := _find_readers(root, name))}
    if absent := [name for name in sets if name not in found]:
        raise InputError(root, f"the data set {absent[0]}", f"{', '.join(found) or 'none'}", "name a set that is there")
    if not found:
        folders = " or ".join(f"{name}/" for name in known if DATASETS[name].location == "data_root")
        raise InputError(root, f"a data root with {folders}, or a data pack", "neither", "mend the path")
    return [_Present(name, readers) for name, readers in found.items() if not sets or name in sets]


def _find_readers(root: Path, name: str) -> tuple[DatasetReader[Any], ...]:
    """The readers of a set that the root has: the first, which its others come beside, and those that find a list."""
    first, *others = DATASETS[name].load_readers()
    beside = [reader for reader in others if reader.is_present(root)]
    return (first, *beside) if beside or first.is_present(root) else ()


def _report_each(root: Path, present: list[_Present], splits: Sequence[str], *, named: bool) -> Iterator[SetReport]:
    for found in present:
        if not found.has_splits:
            yield _check(root, found, "")
            continue
        there = [split for split in splits if found.has_split(root, split)]
        yield from (_check(root, found, split) for split in there)
        if not there and not named:
            tally = Tally(root)
            tally.add_issue(Issue(IssueKind.LIST, found.name, f"no list of {', '.join(splits)}"))
            yield tally.report(found.name, "")


def _check(root: Path, found: _Present, split: str) -> SetReport:
    tally = Tally(root)
    for reader in found.readers_of(root, split):
        for entry in reader.check_entries(root, split):
            if isinstance(entry, Issue):
                tally.add_issue(entry)
            else:
                tally.add_record(entry)
                _open_files(entry, tally)
    return tally.report(found.name, split)


def _open_files(listed: ListedRecord, tally: Tally) -> None:
    """Reads the files that no earlier record had."""
    if listed.audio is not None and tally.is_new(listed.audio):
        seconds, issue = check_audio(listed.audio)
        tally.add_clip(seconds)
        tally.add_issue(issue)
    if listed.image is not None and tally.is_new(listed.image):
        issue = check_image(listed.image)
        tally.add_image(readable=issue is None)
        tally.add_issue(issue)


def check_audio(path: Path) -> tuple[float | None, Issue | None]:
    """Decodes an audio file to its end.

    Returns:
        Its length in seconds, or None if it cannot be decoded; and its issue, or None.
    """
    if problem := file_problem(path):
        return None, Issue(IssueKind.MISSING_AUDIO, str(path), problem)
    if path.stat().st_size == 0:
        return None, Issue(IssueKind.EMPTY_AUDIO, str(path), "a file of 0 bytes")
    try:
        seconds, container = measure(path)
    except InputError as error:
        if _tells_zero_rate(path):
            return None, Issue(IssueKind.ZERO_RATE, str(path), "a header that says 0 Hz")
        return None, Issue(_KINDS.get(error.expected, IssueKind.UNREADABLE_AUDIO), str(path), error.got)
    if container not in CONTAINERS[path.suffix.lower()]:
        return seconds, Issue(IssueKind.MISLABELED_AUDIO, str(path), f"{container} in a {path.suffix} file")
    return seconds, None


def check_image(path: Path) -> Issue | None:
    """Opens and decodes an image; its issue, or None."""
    if problem := file_problem(path):
        return Issue(IssueKind.MISSING_IMAGE, str(path), problem)
    try:
        load_image(path)
    except InputError as error:
        return Issue(IssueKind.UNREADABLE_IMAGE, str(path), error.got)
    return None


def _tells_zero_rate(path: Path) -> bool:
    """Whether the header of a WAV file (RIFF, bytes 4 to 7 of ``fmt``) or FLAC file (RFC 9639, 8.2) says 0 Hz."""
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    if head.startswith(b"fLaC"):
        return int.from_bytes(head[18:21]) >> 4 == 0
    start = head.find(b"fmt ")
    return head.startswith(b"RIFF") and start >= 0 and head[start + 12 : start + 16] == bytes(4)
