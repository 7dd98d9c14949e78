"""WavCaps: the official files of its four collections, or a manifest with one entry for each captioned clip."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from safe_train.audio.folder import audio_files_by_stem
from safe_train.audio.formats import AUDIO_SUFFIXES
from safe_train.data.datasets.clips import AudioRecord, MissingClips, require_clips, separate_missing
from safe_train.data.datasets.manifest import (
    Record,
    as_record,
    find_manifest,
    manifest_names,
    read_json,
    read_records,
    require_unique,
    resolve,
    set_folder,
    without_placeholder,
)
from safe_train.errors import InputError
from safe_train.io.files import file_problem
from safe_train.io.messages import value_shown

OFFICIAL_LISTS = {
    "AudioSet_SL": "as_final.json",
    "BBC_Sound_Effects": "bbc_final.json",
    "FreeSound": "fsd_final.json",
    "SoundBible": "sb_final.json",
}
"""The file of each collection, in ``json_files/<collection>/``."""

_SET = "wavcaps"
_OFFICIAL_SPLIT = "train"


class _List(NamedTuple):
    """Entries of one file. ``official``: audio is found by id; ``captions``: how many an entry has, 0 if not told."""

    records: list[Record]
    official: bool
    captions: int
    subset: str | None


def load_wavcaps(root: Path, split: str) -> list[AudioRecord]:
    """Reads the clips of a split whose audio is there; warns, with count and names, of those whose audio is not.

    See :func:`read_wavcaps` for the files that are read.

    Raises:
        InputError: as :func:`read_wavcaps`, or no clip has its audio.
    """
    return require_clips(*read_wavcaps(root, split))


def read_wavcaps(root: Path, split: str) -> tuple[list[AudioRecord], MissingClips]:
    """Reads the clips of a split, in the order of the files, and which of them have no audio file.

    Tried in turn in ``root/wavcaps/``: for the split ``train``, the only one of WavCaps, the official
    ``json_files/AudioSet_SL/as_final.json``, ``json_files/BBC_Sound_Effects/bbc_final.json``,
    ``json_files/FreeSound/fsd_final.json`` and ``json_files/SoundBible/sb_final.json``, those that are there; then
    ``wavcaps_train.jsonl``, ``wavcaps_train.json``, ``train.jsonl``, ``train.json``.

    An entry has ``id``; ``answers``, ``answer`` or ``caption``; ``audio`` or ``audio_path``, relative to the root or to
    ``root/wavcaps/``; and, if it likes, ``question`` and ``subset``, the collection that the clip comes from (such as
    FreeSound). Ids need to be unique in their subset, and a clip is then called ``<subset>/<id>``.

    An official file, also under one of the other names, is ``{"num_captions_per_audio": 1, "data": [entries]}``; with
    more captions an entry has ``caption_1`` and so on. Its audio is found by id, whose suffix does not count
    (AudioSet's ids end in ``.wav``, its files in ``.flac``), in ``audio/<subset>/``, ``<subset>/``, ``<subset>_flac/``,
    ``waveforms/<subset>_flac/`` or ``audio/``; or else where ``audio`` says, if that ends like a file: as published it
    holds no path. ``file_name`` is not unique and not read. Source: Mei et al. 2023, arXiv:2303.17395, and its files.

    Raises:
        InputError: a file or field is missing or malformed, an id appears twice in a subset, or a path leaves the root.
    """
    folder = set_folder(root, _SET)
    paths = find_wavcaps(folder, split)
    if not paths:
        expected = " or ".join((f"json_files/ with {' or '.join(OFFICIAL_LISTS)}", *manifest_names(_SET, split)))
        raise InputError(folder, expected, "none of them", f"put one there or name a split other than {split!r}")
    lists = [_read(path) for path in paths]
    examples = [example for entries in lists for example in _examples(root, folder, entries)]
    require_unique([record for entries in lists for record in entries.records], [e.clip_id for e in examples])
    return separate_missing(examples, paths[0] if len(paths) == 1 else folder / "json_files")


def find_wavcaps(folder: Path, split: str) -> list[Path]:
    """The lists of a split that :func:`read_wavcaps` reads from the set's folder."""
    official = [folder / "json_files" / subset / name for subset, name in OFFICIAL_LISTS.items()]
    present = [path for path in official if file_problem(path) is None] if split == _OFFICIAL_SPLIT else []
    manifest = find_manifest(folder, _SET, split)
    return present or ([manifest] if manifest else [])


def _read(path: Path) -> _List:
    subset = path.parent.name if path.parent.name in OFFICIAL_LISTS else None
    content = read_json(path) if path.suffix == ".json" else None
    if not isinstance(content, dict):
        return _List(read_records(path), official=subset is not None, captions=0, subset=subset)
    header = as_record(content, str(path))
    entries = header.required("data")
    if not isinstance(entries, list) or not entries:
        raise InputError(path, "data to be a non-empty list", value_shown(entries), "fetch the official file again")
    records = [as_record(entry, f"{path}: data[{index}]") for index, entry in enumerate(entries)]
    return _List(records, official=True, captions=header.integer("num_captions_per_audio"), subset=subset)


def _examples(root: Path, folder: Path, entries: _List) -> Iterator[AudioRecord]:
    files: dict[str | None, Mapping[str, Path]] = {}
    for record in entries.records:
        subset = entries.subset or record.optional_text("subset")
        clip = _stem(record.identifier("id")) if entries.official else record.identifier("id")
        clip_id = f"{subset}/{clip}" if subset else clip
        if entries.official and subset not in files:
            files[subset] = audio_files_by_stem(_audio_folders(folder, subset))
        found = files[subset].get(clip) if entries.official else None
        audio = found or resolve(root, folder, _written_path(record, entries.official, clip_id), record.where)
        yield AudioRecord(
            clip_id,
            audio,
            _captions(record, entries.captions),
            record.optional_question("question", has_image=False),
            None,
        )


def _written_path(record: Record, official: bool, clip_id: str) -> str:
    """Where the entry says its audio is; official entries need not, and then it is where one would put it."""
    if not official:
        return record.text("audio", "audio_path")
    written = record.optional_text("audio", "audio_path")
    if written is None or Path(written).suffix.lower() not in AUDIO_SUFFIXES:
        return f"{_SET}/audio/{clip_id}.flac"
    return written


def _audio_folders(folder: Path, subset: str | None) -> Iterator[Path]:
    names = [f"audio/{subset}", subset, f"{subset}_flac", f"waveforms/{subset}_flac"] if subset else []
    return (folder / name for name in (*names, "audio"))


def _captions(record: Record, count: int) -> tuple[str, ...]:
    """All captions of an entry: in one field, or numbered from 1 to ``count``."""
    if count > 1 and record.optional("caption") is None:
        return tuple(
            without_placeholder(record.text(f"caption_{number}"), record.where) for number in range(1, count + 1)
        )
    return record.references("answers", "answer", "caption")


def _stem(name: str) -> str:
    suffix = Path(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in AUDIO_SUFFIXES else name
