"""What the lists of a data folder name, entry by entry, and every defect of the lists themselves.

The readers stop at the first entry that is wrong. For a check that is too early: where a reader refuses a list, its
entries are gone through one by one, and each field that is wrong is a defect of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from safe_train.data.datasets.audiocaps import read_audiocaps
from safe_train.data.datasets.avqa import find_avqa, read_avqa
from safe_train.data.datasets.clips import AudioRecord, MissingClips
from safe_train.data.datasets.manifest import Record, find_manifest, read_records, require_manifest, set_folder
from safe_train.data.datasets.pack import (
    CAPTIONS,
    SUBSET_MANIFESTS,
    TEXT_LIST,
    VAL_MANIFEST,
    read_pack_clips,
    read_pack_questions,
)
from safe_train.data.datasets.text import TEXT_SET, read_text_list
from safe_train.data.datasets.vqa import VQARecord, load_vqa, read_official
from safe_train.data.datasets.wavcaps import find_wavcaps, read_wavcaps
from safe_train.data.validation.entries import scan_entries, text_item
from safe_train.data.validation.issues import Issue, IssueKind, Item
from safe_train.errors import InputError
from safe_train.io.files import file_problem

PACK = "pack"
SETS = ("audiocaps", "wavcaps", "avqa", "vqa", TEXT_SET)


def is_pack(root: Path) -> bool:
    """Whether the folder has a list of a data pack."""
    return any(file_problem(root / name) is None for name in (*SUBSET_MANIFESTS, CAPTIONS, VAL_MANIFEST, TEXT_LIST))


def has_split(root: Path, set_name: str, split: str) -> bool:
    """Whether the set has a list of the split."""
    folder = root / set_name
    if set_name == "avqa":
        return find_avqa(folder, split) is not None
    official = any(file_problem(path) is None for path in _official_files(folder, set_name, split))
    return official or find_manifest(folder, set_name, split) is not None


def _official_files(folder: Path, set_name: str, split: str) -> list[Path]:
    """The lists that the readers prefer to a manifest; the entries of MUSIC-AVQA are like a manifest's."""
    if set_name == "audiocaps":
        return [folder / f"{split}.csv"]
    if set_name == "wavcaps":
        return [path for path in find_wavcaps(folder, split) if path.parent != folder]
    return [_vqa_files(folder, split)[0]] if set_name == "vqa" else []


def list_items(root: Path, set_name: str, split: str) -> Iterator[Item | Issue]:
    """The entries of a set's split, or of a pack (which has no splits), and the defects of their lists."""
    if set_name == PACK:
        yield from _pack_items(root)
        return
    try:
        yield from _READERS[set_name](root, split)
    except InputError as error:
        yield from _scanned(root, set_name, _records(root / set_name, set_name, split), error)


def _scanned(root: Path, set_name: str, records: list[Record], error: InputError) -> Iterator[Item | Issue]:
    """The entries of a list that a reader has refused with this error."""
    defects = 0
    for found in scan_entries(root, set_name, records):
        defects += isinstance(found, Issue) or not _is_complete(found)
        yield found
    if not defects:  # what the reader refuses is in no single entry
        yield Issue.of(IssueKind.LIST, error)


def _records(folder: Path, set_name: str, split: str) -> list[Record]:
    """The entries of a split's list, if it is a manifest and can be read."""
    manifest = find_avqa(folder, split) if set_name == "avqa" else find_manifest(folder, set_name, split)
    if manifest is None or any(file_problem(path) is None for path in _official_files(folder, set_name, split)):
        return []
    return _readable(manifest)


def _readable(manifest: Path) -> list[Record]:
    try:
        return read_records(manifest)
    except InputError:  # the reader has said it
        return []


def _is_complete(item: Item) -> bool:
    return all(path is None or file_problem(path) is None for path in (item.audio, item.image))


def _clips(examples: list[AudioRecord], missing: MissingClips) -> list[Item | Issue]:
    absent = [
        Issue(IssueKind.MISSING_AUDIO, clip_id, f"listed in {missing.where.name}") for clip_id in missing.clip_ids
    ]
    return [*absent, *(Item(e.question, e.captions, e.audio_path, e.image_path) for e in examples)]


def _vqa_items(root: Path, split: str) -> list[Item | Issue]:
    questions, annotations = _vqa_files(root / "vqa", split)
    if file_problem(questions) is None:
        unanswered = split.startswith("test") and file_problem(annotations) is not None
        return _questions(read_official(questions, None if unanswered else annotations))
    return _questions(load_vqa(root, split))


def _questions(examples: list[VQARecord]) -> list[Item | Issue]:
    return [Item(example.question, example.answers, None, example.image_path) for example in examples]


def _text_items(path: Path) -> list[Item | Issue]:
    """Questions as they are, and documents whole, one an entry."""
    read_text_list(path)
    return [text_item(record) for record in read_records(path)]


def _vqa_files(folder: Path, split: str) -> tuple[Path, Path]:
    name = f"{split}{2015 if split.startswith('test') else 2014}"
    return folder / f"v2_OpenEnded_mscoco_{name}_questions.json", folder / f"v2_mscoco_{name}_annotations.json"


def _pack_items(root: Path) -> Iterator[Item | Issue]:
    try:
        yield from _clips(*read_pack_clips(root))
    except InputError as error:
        yield Issue.of(IssueKind.LIST, error)
    if file_problem(root / VAL_MANIFEST) is None:
        try:
            examples, missing = read_pack_questions(root)
        except InputError as error:
            yield Issue.of(IssueKind.LIST, error)
        else:
            yield from (Issue(IssueKind.MISSING_IMAGE, str(path), f"listed in {VAL_MANIFEST}") for path in missing)
            yield from _questions(examples)
    if file_problem(root / TEXT_LIST) is None:
        try:
            yield from _text_items(root / TEXT_LIST)
        except InputError as error:
            yield from _scanned(root, TEXT_SET, _readable(root / TEXT_LIST), error)


_READERS: dict[str, Callable[[Path, str], list[Item | Issue]]] = {
    "audiocaps": lambda root, split: _clips(*read_audiocaps(root, split)),
    "wavcaps": lambda root, split: _clips(*read_wavcaps(root, split)),
    "avqa": lambda root, split: _clips(*read_avqa(root, split)),
    "vqa": _vqa_items,
    TEXT_SET: lambda root, split: _text_items(require_manifest(set_folder(root, TEXT_SET), TEXT_SET, split)),
}
