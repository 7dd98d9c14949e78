"""The data pack: captioned clips and questions about images in one portable folder.

pack/
  manifest.json, subset_manifest.json   the clips (same content)
  captions.jsonl                        one entry a line, those whose audio was there
  val_manifest.json                     the questions
  text.jsonl                            text-only records, if there are any, as in root/text/
  audio/train/*.wav   images/*          the files
  README.txt   missing_files.log        for people
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from safe_train.data.datasets.clips import MissingClips, separate_missing
from safe_train.data.datasets.issues import Issue, IssueKind, ListedRecord
from safe_train.data.datasets.manifest import read_records, require_folder, resolve
from safe_train.data.datasets.pack_manifest import PackedClip, SubsetManifest, ValManifest, clips_from_records
from safe_train.data.datasets.reader import AudioReader, VLReader, list_questions
from safe_train.data.datasets.records import AudioRecord, TextRecord, VQARecord
from safe_train.data.datasets.text import TextListReader, read_text_list
from safe_train.errors import InputError
from safe_train.io.files import file_problem
from safe_train.io.messages import one_line

logger = logging.getLogger(__name__)

PACK = "pack"
SUBSET_MANIFESTS = ("manifest.json", "subset_manifest.json")
CAPTIONS = "captions.jsonl"
VAL_MANIFEST = "val_manifest.json"
TEXT_LIST = "text.jsonl"
IMAGES = "images"
_NAMES_SHOWN = 5


class PackClips(AudioReader):
    """The clips of a pack.

    The list is ``manifest.json``, or else ``subset_manifest.json``, or else ``captions.jsonl``. Captions of one audio
    file are one record.
    """

    name = PACK
    has_splits = False

    def is_present(self, root: Path) -> bool:
        """Whether the folder has a list of clips."""
        return bool(self.official_lists(root, ""))

    def official_lists(self, root: Path, split: str) -> list[Path]:
        """The list, if there is one."""
        del split
        found = (root / name for name in (*SUBSET_MANIFESTS, CAPTIONS))
        return [path for path in found if file_problem(path) is None][:1]

    def read(self, root: Path, split: str) -> tuple[list[AudioRecord], MissingClips]:
        """Reads the clips, in the order of the list, and which of them have no audio file.

        Raises:
            InputError: there is no list, it is malformed, a path leaves the pack, or one audio file stands for two
                clips.
        """
        _require_folder(root)
        lists = self.official_lists(root, split)
        if not lists:
            hint = "make one with python -m experiments.overfitting.package_subset"
            expected = f"a data pack with {' or '.join((*SUBSET_MANIFESTS, CAPTIONS))}"
            raise InputError(root, expected, "none of them", hint)
        source = lists[0]
        if source.name == CAPTIONS:
            entries = clips_from_records(read_records(source))
        else:
            entries = SubsetManifest.read(source).entries
        return separate_missing(_group_captions(root, source, entries), source)


class PackQuestions(VLReader):
    """The questions of a pack about its images; a pack has no question types."""

    name = PACK
    has_splits = False

    def is_present(self, root: Path) -> bool:
        """Whether the folder has a list of questions."""
        return bool(self.official_lists(root, ""))

    def official_lists(self, root: Path, split: str) -> list[Path]:
        """The list, if it is there."""
        del split
        return [root / VAL_MANIFEST] if file_problem(root / VAL_MANIFEST) is None else []

    def read(self, root: Path) -> tuple[list[VQARecord], list[Path]]:
        """Reads the questions, in the order of the list, and the images that questions miss, one a question.

        Raises:
            InputError: the list is missing or malformed, or an image's path leaves ``images/``.
        """
        _require_folder(root)
        images = root / IMAGES
        records: list[VQARecord] = []
        missing: list[Path] = []
        for index, entry in enumerate(ValManifest.read(root / VAL_MANIFEST).entries):
            where = f"{root / VAL_MANIFEST}: entries[{index}]"
            image = resolve(images, images, entry.image_filename, where)
            if file_problem(image):
                missing.append(image)
                continue
            records.append(VQARecord(entry.question_id, entry.image_id, entry.question, entry.answers, image, "", ""))
        return records, missing

    def records(self, root: Path, split: str) -> list[VQARecord]:
        """Reads the questions whose image is there; warns, with count and names, of the others.

        Raises:
            InputError: as :meth:`read`, or no question has its image.
        """
        del split
        records, missing = self.read(root)
        names = ", ".join(one_line(path.name) for path in missing[:_NAMES_SHOWN])
        if not records:
            raise InputError(root / IMAGES, "the images of its questions", f"none, first {names}", "copy them there")
        if missing:
            counts = f"{len(missing)} of {len(records) + len(missing)} questions have no image"
            shown = names + (" ..." if len(missing) > _NAMES_SHOWN else "")
            logger.warning("%s: %s: %s", root / VAL_MANIFEST, counts, shown)
        return records

    def list_entries(self, root: Path, split: str) -> list[ListedRecord | Issue]:
        """The questions, and an issue for each image that is not there."""
        del split
        records, missing = self.read(root)
        absent = [Issue(IssueKind.MISSING_IMAGE, str(path), f"listed in {VAL_MANIFEST}") for path in missing]
        return [*absent, *list_questions(records)]


class PackText(TextListReader):
    """The text-only records of a pack."""

    name = PACK
    has_splits = False

    def is_present(self, root: Path) -> bool:
        """Whether the folder has a list of text-only records."""
        return self.find_manifest(root, "") is not None

    def find_manifest(self, root: Path, split: str) -> Path | None:
        """The list, if it is there."""
        del split
        return root / TEXT_LIST if file_problem(root / TEXT_LIST) is None else None

    def records(self, root: Path, split: str) -> list[TextRecord]:
        """Reads the records, in the order of the list.

        Raises:
            InputError: there is no list, or as :func:`~safe_train.data.datasets.text.read_text_list`.
        """
        _require_folder(root)
        found = self.find_manifest(root, split)
        if found is None:
            hint = "pack one with package_subset --text-list, or take text-only examples from elsewhere"
            raise InputError(root, f"a data pack with {TEXT_LIST}", "none", hint)
        return read_text_list(found)


def _require_folder(root: Path) -> None:
    require_folder(root, "the folder of a data pack", "unpack it there or mend the path")


def _group_captions(root: Path, source: Path, entries: Iterable[PackedClip]) -> list[AudioRecord]:
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
