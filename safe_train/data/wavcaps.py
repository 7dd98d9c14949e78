"""WavCaps: a manifest with one entry for each captioned clip."""

from __future__ import annotations

from pathlib import Path

from safe_train.data.clips import AudioExample, MissingClips, require_clips, separate_missing
from safe_train.data.manifest import Record, read_records, require_manifest, require_unique, resolve, set_folder

_SET = "wavcaps"


def load_wavcaps(root: Path, split: str) -> list[AudioExample]:
    """Reads the clips of a split whose audio is there; warns, with count and names, of those whose audio is not.

    See :func:`read_wavcaps` for the files that are read.

    Raises:
        InputError: as :func:`read_wavcaps`, or no clip has its audio.
    """
    return require_clips(*read_wavcaps(root, split))


def read_wavcaps(root: Path, split: str) -> tuple[list[AudioExample], MissingClips]:
    """Reads the clips of a split, in the order of the file, and which of them have no audio file.

    Tried in turn in ``root/wavcaps/``: ``wavcaps_train.jsonl``, ``wavcaps_train.json``, ``train.jsonl``,
    ``train.json``.

    An entry has ``id``; ``answers``, ``answer`` or ``caption``; ``audio`` or ``audio_path``, relative to the root or to
    ``root/wavcaps/``; and, if it likes, ``question`` and ``subset``, the collection that the clip comes from (such as
    FreeSound). Ids need to be unique in their subset, and a clip is then called ``<subset>/<id>``.

    Raises:
        InputError: a file or field is missing or malformed, an id appears twice in a subset, or a path leaves the root.
    """
    folder = set_folder(root, _SET)
    manifest = require_manifest(folder, _SET, split)
    records = read_records(manifest)
    examples = [
        AudioExample(
            clip_id=_clip_id(record),
            audio_path=resolve(root, folder, record.text("audio", "audio_path"), record.where),
            captions=record.texts("answers", "answer", "caption"),
            question=record.optional_text("question"),
            image_path=None,
        )
        for record in records
    ]
    require_unique(records, [example.clip_id for example in examples])
    return separate_missing(examples, manifest)


def _clip_id(record: Record) -> str:
    subset = record.optional_text("subset")
    return f"{subset}/{record.identifier('id')}" if subset else record.identifier("id")
