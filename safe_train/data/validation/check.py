"""The check of a data folder: every list is read, every audio file decoded and every image opened, one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from safe_train.audio.file import HEARABLE_RATE, WHOLE
from safe_train.audio.formats import CONTAINERS
from safe_train.audio.waveform import HEARABLE_LENGTH, SOUND, measure
from safe_train.data.datasets.manifest import require_folder
from safe_train.data.image import load_image
from safe_train.data.validation.issues import Issue, IssueKind, Item
from safe_train.data.validation.listing import PACK, SETS, has_split, is_pack, list_items
from safe_train.data.validation.report import SetReport, Tally
from safe_train.errors import InputError
from safe_train.io.files import file_problem, folder_problem

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


def check_root(root: Path, *, sets: Sequence[str] = (), splits: Sequence[str] = ()) -> Iterator[SetReport]:
    """Checks what a data folder holds, set by set and split by split.

    A report is given when its set is done. Memory: the lists of one split, 8 bytes for each clip, and the audio file
    or image that is being read.

    Args:
        root: the data root, or a data pack.
        sets: names from ``audiocaps wavcaps avqa vqa text pack``; none for all that are there.
        splits: none for those of train, val and test that are there.

    Raises:
        InputError: there is no such folder, no data set in it, a named set is not there, or no set has a named split.
    """
    present = _present(root, sets)
    wanted = splits or SPLITS
    for split in splits:
        if present != [PACK] and not any(name != PACK and has_split(root, name, split) for name in present):
            raise InputError(
                root, f"a list of the split {split}", f"none in {', '.join(present)}", "name another split"
            )
    return _reports(root, present, wanted, named=bool(splits))


def require_no_issues(root: Path, reports: Sequence[SetReport]) -> None:
    """InputError with the number of defects, if there are any."""
    found = [defect for report in reports for defect in report.defects]
    if found:
        count, kinds = sum(defect.count for defect in found), len({defect.kind for defect in found})
        counts = f"{count} defect{'' if count == 1 else 's'} of {kinds} kind{'' if kinds == 1 else 's'}"
        raise InputError(root, "data without defects", counts, "mend or remove what the report names")


def _present(root: Path, sets: Sequence[str]) -> list[str]:
    require_folder(root, "a data root or a data pack", "mend the path")
    found = [name for name in SETS if folder_problem(root / name) is None] + ([PACK] if is_pack(root) else [])
    if absent := [name for name in sets if name not in found]:
        raise InputError(root, f"the data set {absent[0]}", f"{', '.join(found) or 'none'}", "name a set that is there")
    if not found:
        expected = f"a data root with {' or '.join(f'{name}/' for name in SETS)}, or a data pack"
        raise InputError(root, expected, "neither", "mend the path")
    return [name for name in found if not sets or name in sets]


def _reports(root: Path, present: list[str], splits: Sequence[str], *, named: bool) -> Iterator[SetReport]:
    for name in present:
        if name == PACK:
            yield _check(root, PACK, "")
            continue
        there = [split for split in splits if has_split(root, name, split)]
        yield from (_check(root, name, split) for split in there)
        if not there and not named:
            tally = Tally(root)
            tally.add_defect(Issue(IssueKind.LIST, name, f"no list of {', '.join(splits)}"))
            yield tally.report(name, "")


def _check(root: Path, set_name: str, split: str) -> SetReport:
    tally = Tally(root)
    for found in list_items(root, set_name, split):
        if isinstance(found, Issue):
            tally.add_defect(found)
            continue
        tally.add_item(found)
        _open_files(found, tally)
    return tally.report(set_name, split)


def _open_files(item: Item, tally: Tally) -> None:
    """Reads the files that no earlier item had."""
    if item.audio is not None and tally.is_new(item.audio):
        seconds, defect = check_audio(item.audio)
        tally.add_clip(seconds)
        tally.add_defect(defect)
    if item.image is not None and tally.is_new(item.image):
        defect = check_image(item.image)
        tally.add_image(readable=defect is None)
        tally.add_defect(defect)


def check_audio(path: Path) -> tuple[float | None, Issue | None]:
    """Decodes an audio file to its end.

    Returns:
        Its length in seconds, or None if it cannot be decoded; and its defect, or None.
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
    """Opens and decodes an image; its defect, or None."""
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
