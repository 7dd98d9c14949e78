"""The data pack: captioned clips and questions about images in one folder that can be moved and sent.

pack/
  manifest.json, subset_manifest.json   the clips (same content)
  captions.jsonl                        one entry a line, those whose audio was there
  val_manifest.json                     the questions
  text.jsonl                            text-only rows, if there are any, as in root/text/
  audio/train/*.wav   images/*          the files
  README.txt   missing_files.log        for people
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from safe_train.data.datasets.clips import AudioRecord, MissingClips, require_clips, separate_missing
from safe_train.data.datasets.manifest import read_records, require_folder, resolve
from safe_train.data.datasets.pack_manifest import PackedClip, SubsetManifest, ValManifest, clips_from_records
from safe_train.data.datasets.text import TextRecord, read_text_list
from safe_train.data.datasets.vqa import VQARecord
from safe_train.errors import InputError
from safe_train.io.files import file_problem
from safe_train.io.messages import one_line

logger = logging.getLogger(__name__)

SUBSET_MANIFESTS = ("manifest.json", "subset_manifest.json")
CAPTIONS = "captions.jsonl"
VAL_MANIFEST = "val_manifest.json"
TEXT_LIST = "text.jsonl"
IMAGES = "images"
_NAMES_SHOWN = 5


def load_pack_clips(root: Path) -> list[AudioRecord]:
    """Reads the clips of a pack whose audio is there; warns, with count and names, of those whose audio is not.

    Raises:
        InputError: as :func:`read_pack_clips`, or no clip has its audio.
    """
    return require_clips(*read_pack_clips(root))


def read_pack_clips(root: Path) -> tuple[list[AudioRecord], MissingClips]:
    """Reads the clips of a pack, in the order of its list, and which of them have no audio file.

    The list is ``manifest.json``, or else ``subset_manifest.json``, or else ``captions.jsonl``. Captions of one audio
    file are one example.

    Raises:
        InputError: there is no list, it is malformed, a path leaves the pack, or one audio file stands for two clips.
    """
    source = _clip_list(root)
    if source.name == CAPTIONS:
        entries = clips_from_records(read_records(source))
    else:
        entries = SubsetManifest.read(source).entries
    return separate_missing(_examples(root, source, entries), source)


def load_pack_questions(root: Path) -> list[VQARecord]:
    """Reads the questions of a pack whose image is there; warns, with count and names, of the others.

    Raises:
        InputError: as :func:`read_pack_questions`, or no question has its image.
    """
    examples, missing = read_pack_questions(root)
    names = ", ".join(one_line(path.name) for path in missing[:_NAMES_SHOWN])
    if not examples:
        raise InputError(root / IMAGES, "the images of its questions", f"none, first {names}", "copy them there")
    if missing:
        counts = f"{len(missing)} of {len(examples) + len(missing)} questions have no image"
        logger.warning(
            "%s: %s: %s", root / VAL_MANIFEST, counts, names + (" ..." if len(missing) > _NAMES_SHOWN else "")
        )
    return examples


def read_pack_questions(root: Path) -> tuple[list[VQARecord], list[Path]]:
    """Reads the questions of a pack, in the order of its list, and the images that questions miss, one a question.

    Raises:
        InputError: the list is missing or malformed, or an image's path leaves ``images/``.
    """
    _require_folder(root)
    images = root / IMAGES
    examples: list[VQARecord] = []
    missing: list[Path] = []
    for index, entry in enumerate(ValManifest.read(root / VAL_MANIFEST).entries):
        where = f"{root / VAL_MANIFEST}: entries[{index}]"
        image = resolve(images, images, entry.image_filename, where)
        if file_problem(image):
            missing.append(image)
            continue
        # The pack keeps no question types.
        examples.append(VQARecord(entry.question_id, entry.image_id, entry.question, entry.answers, image, "", ""))
    return examples, missing


def load_pack_text(root: Path) -> list[TextRecord]:
    """Reads the text-only rows of a pack, in the order of its list.

    Raises:
        InputError: there is no list, or it is malformed; see :func:`~safe_train.data.datasets.text.read_text_list`.
    """
    _require_folder(root)
    if file_problem(root / TEXT_LIST):
        hint = "pack one with package_subset --text-list, or take text-only rows from elsewhere"
        raise InputError(root, f"a data pack with {TEXT_LIST}", "none", hint)
    return read_text_list(root / TEXT_LIST)


def _clip_list(root: Path) -> Path:
    _require_folder(root)
    names = (*SUBSET_MANIFESTS, CAPTIONS)
    found = next((root / name for name in names if file_problem(root / name) is None), None)
    if found is None:
        hint = "make one with python -m experiments.overfitting.package_subset"
        raise InputError(root, f"a data pack with {' or '.join(names)}", "none of them", hint)
    return found


def _require_folder(root: Path) -> None:
    require_folder(root, "the folder of a data pack", "unpack it there or mend the path")


def _examples(root: Path, source: Path, entries: Iterable[PackedClip]) -> list[AudioRecord]:
    captions: dict[tuple[str, Path], list[str]] = defaultdict(list)
    owners: dict[Path, str] = {}
    for index, entry in enumerate(entries):
        where = f"{source}: entry {index}"
        audio = resolve(root, root, entry.audio_relpath, where)
        if (owner := owners.setdefault(audio, entry.clip_id)) != entry.clip_id:
            got = f"{entry.audio_relpath}, which is {owner}'s"
            raise InputError(where, f"an audio file of {entry.clip_id}'s own", got, "mend audio_relpath or start_time")
        captions[entry.clip_id, audio].append(entry.caption)
    return [AudioRecord(clip_id, audio, tuple(texts), None, None) for (clip_id, audio), texts in captions.items()]
