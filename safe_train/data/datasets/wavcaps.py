"""WavCaps: the official files of its four collections, or a manifest with one entry for each captioned clip."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from safe_train.audio.folder import index_audio_files
from safe_train.audio.formats import AUDIO_SUFFIXES
from safe_train.data.datasets.clips import MissingClips, separate_missing
from safe_train.data.datasets.entry_scan import EntryFields
from safe_train.data.datasets.manifest import (
    Record,
    as_record,
    read_json,
    read_records,
    require_set_folder,
    require_unique,
    required_file,
    resolve,
    strip_placeholder,
)
from safe_train.data.datasets.reader import AudioReader
from safe_train.data.datasets.records import AudioRecord
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

_OFFICIAL_SPLIT = "train"


class _List(NamedTuple):
    """Entries of one file. ``official``: audio is found by id; ``captions``: how many an entry has, 0 if unknown."""

    records: list[Record]
    official: bool
    captions: int
    subset: str | None


class WavCaps(AudioReader):
    """WavCaps, or your own list of clips with captions.

    Tried in turn in ``root/wavcaps/``: for the split ``train``, the only one of WavCaps, the official
    ``json_files/AudioSet_SL/as_final.json``, ``json_files/BBC_Sound_Effects/bbc_final.json``,
    ``json_files/FreeSound/fsd_final.json`` and ``json_files/SoundBible/sb_final.json``, those that exist; then
    ``wavcaps_train.jsonl``, ``wavcaps_train.json``, ``train.jsonl``, ``train.json``.

    An entry has ``id``; ``answers``, ``answer`` or ``caption``; ``audio`` or ``audio_path``, relative to the root or to
    ``root/wavcaps/``; and, optionally, ``question`` and ``subset``, the collection that the clip comes from (such as
    FreeSound). Ids must be unique in their subset, and a clip's id is then ``<subset>/<id>``.

    An official file, also under one of the other names, is ``{"num_captions_per_audio": 1, "data": [entries]}``; with
    more captions an entry has ``caption_1`` and so on. Its audio is found by id, whose suffix does not count
    (AudioSet's ids end in ``.wav``, its files in ``.flac``), in ``audio/<subset>/``, ``<subset>/``, ``<subset>_flac/``,
    ``waveforms/<subset>_flac/`` or ``audio/``; or else at the path in ``audio``, if that has a suffix: as published it
    holds no path. ``file_name`` is not unique and not read. Source: Mei et al. 2023, arXiv:2303.17395, and its files.
    """

    name = "wavcaps"
    fields = EntryFields(answers=("answers", "answer", "caption"), image=(), required=("audio",))

    def official_lists(self, root: Path, split: str) -> list[Path]:
        """Those of the four files that exist; WavCaps has only the split ``train``."""
        folder = root / self.name / "json_files"
        official = [folder / subset / name for subset, name in OFFICIAL_LISTS.items()]
        return [path for path in official if file_problem(path) is None] if split == _OFFICIAL_SPLIT else []

    def read(self, root: Path, split: str) -> tuple[list[AudioRecord], MissingClips]:
        """Reads the records of a split, in the order of the files, and which clips have no audio file.

        Raises:
            InputError: a file or field is missing or malformed, an id appears twice in a subset, or a path leaves the
                root.
        """
        folder = require_set_folder(root, self.name)
        paths = self.official_lists(root, split)
        if not paths:
            paths = [self.require_manifest(root, split, f"json_files/ with {' or '.join(OFFICIAL_LISTS)}")]
        lists = [_read_list(path) for path in paths]
        records = [record for entries in lists for record in self._read_entries(root, entries)]
        require_unique([entry for entries in lists for entry in entries.records], [r.clip_id for r in records])
        return separate_missing(records, paths[0] if len(paths) == 1 else folder / "json_files")

    def entry_id(self, record: Record, number: int) -> str | None:
        """The id, which is unique in its subset."""
        name, subset = super().entry_id(record, number), record.optional_text("subset")
        return f"{subset}/{name}" if subset else name

    def _read_entries(self, root: Path, entries: _List) -> Iterator[AudioRecord]:
        folder = root / self.name
        files: dict[str | None, Mapping[str, Path]] = {}
        for record in entries.records:
            subset = entries.subset or record.optional_text("subset")
            clip = _strip_suffix(record.identifier("id")) if entries.official else record.identifier("id")
            clip_id = f"{subset}/{clip}" if subset else clip
            if entries.official and subset not in files:
                files[subset] = index_audio_files(_audio_folders(folder, subset))
            found = files[subset].get(clip) if entries.official else None
            audio = found or self._written_file(root, record, entries.official, clip_id)
            question = self.question(record, has_image=False)
            yield AudioRecord(clip_id, audio, self._captions(record, entries.captions), question, None)

    def _written_file(self, root: Path, record: Record, official: bool, clip_id: str) -> Path:
        """Where the entry says its audio is; official entries need not, and then it is where one would put it."""
        folder = root / self.name
        if not official:
            return required_file(record, self.fields.audio, root, folder)
        written = record.optional_text(*self.fields.audio)
        if written is None or Path(written).suffix.lower() not in AUDIO_SUFFIXES:
            written = f"{self.name}/audio/{clip_id}.flac"
        return resolve(root, folder, written, record.where)

    def _captions(self, record: Record, count: int) -> tuple[str, ...]:
        """All captions of an entry: in one field, or numbered from 1 to ``count``."""
        if count > 1 and record.optional("caption") is None:
            return tuple(
                strip_placeholder(record.text(f"caption_{number}"), record.where) for number in range(1, count + 1)
            )
        return record.references(*self.fields.answers)


def _read_list(path: Path) -> _List:
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


def _audio_folders(folder: Path, subset: str | None) -> Iterator[Path]:
    names = [f"audio/{subset}", subset, f"{subset}_flac", f"waveforms/{subset}_flac"] if subset else []
    return (folder / name for name in (*names, "audio"))


def _strip_suffix(name: str) -> str:
    suffix = Path(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in AUDIO_SUFFIXES else name
