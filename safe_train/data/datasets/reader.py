"""The interface of a data set reader, used for training, evaluation and the data check."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from safe_train.data.datasets.clips import MissingClips, require_clips
from safe_train.data.datasets.conversion import convert_audio, convert_text, convert_vqa
from safe_train.data.datasets.entry_scan import EntryFields, EntryScan
from safe_train.data.datasets.issues import Issue, IssueKind, ListedRecord
from safe_train.data.datasets.manifest import Record, find_manifest, manifest_names, read_records, require_set_folder
from safe_train.data.datasets.records import AudioRecord, TextRecord, VQARecord
from safe_train.data.datasets.registry import ExampleKind
from safe_train.data.example import Example
from safe_train.errors import InputError
from safe_train.io.files import file_problem, folder_problem

_Record = TypeVar("_Record")


class DatasetReader(ABC, Generic[_Record]):
    """Reads one kind of examples of one data set.

    A subclass of :class:`AudioReader`, :class:`VLReader` or :class:`TextReader` and one line in
    :data:`~safe_train.data.datasets.registry.DATASETS` are a new data set.

    Attributes:
        name: name in settings, folder in the data root, and prefix of its manifests' names.
        kind: kind of its examples.
        has_splits: whether it has a list for each split; if not, ``split`` is ignored.
        fields: field names of its manifests' entries.
    """

    name: ClassVar[str]
    kind: ClassVar[ExampleKind]
    has_splits: ClassVar[bool] = True
    fields: ClassVar[EntryFields] = EntryFields()

    @abstractmethod
    def records(self, root: Path, split: str) -> list[_Record]:
        """Reads the records of a split, in the order of its list.

        Raises:
            InputError: a file or field is missing or malformed, or a path leaves the root.
        """

    @abstractmethod
    def examples(self, root: Path, split: str, *, default_question: str = "") -> list[Example]:
        """Reads the examples of a split.

        Args:
            root: the data root.
            split: such as ``train``.
            default_question: the question for clips that have only captions.

        Raises:
            InputError: as :meth:`records`.
        """

    @abstractmethod
    def list_entries(self, root: Path, split: str) -> list[ListedRecord | Issue]:
        """What the entries of a split name, also files that are not there.

        Raises:
            InputError: as :meth:`records`, but for files that are missing.
        """

    def is_present(self, root: Path) -> bool:
        """Whether the root has the data set."""
        return folder_problem(root / self.name) is None

    def official_lists(self, root: Path, split: str) -> list[Path]:
        """The published lists of a split that are there; they are preferred to a manifest."""
        del root, split
        return []

    def find_manifest(self, root: Path, split: str) -> Path | None:
        """The manifest of a split, or None."""
        return find_manifest(root / self.name, self.name, split)

    def has_split(self, root: Path, split: str) -> bool:
        """Whether there is a list of the split."""
        return bool(self.official_lists(root, split)) or self.find_manifest(root, split) is not None

    def require_manifest(self, root: Path, split: str, *official: str) -> Path:
        """The manifest of a split; ``official`` are the names of the lists that would do as well.

        Raises:
            InputError: there is none.
        """
        folder = require_set_folder(root, self.name)
        if found := self.find_manifest(root, split):
            return found
        expected = " or ".join((*official, *manifest_names(self.name, split)))
        raise InputError(folder, expected, "none of them", f"put one there or name a split other than {split!r}")

    def entry_id(self, record: Record, number: int) -> str | None:
        """What needs to be unique in a manifest, whose ``number``-th entry this is; None if nothing does.

        Raises:
            InputError: it is missing or neither text nor a whole number.
        """
        del number
        return record.identifier(*self.fields.identifier)

    def question(self, record: Record, *, has_image: bool) -> str | None:
        """The question of a manifest's entry, or None if it has no question.

        Raises:
            InputError: it is blank, cannot be encoded, or has the placeholder of an image that is not there.
        """
        return record.optional_question(*self.fields.question, has_image=has_image)

    def check_entries(self, root: Path, split: str) -> Iterator[ListedRecord | Issue]:
        """What the entries of a split name, and every issue of its list.

        :meth:`list_entries` stops at the first entry that is wrong. For a check that is too early: where it refuses a
        manifest, the entries are gone through one by one, and each field that is wrong is an issue of its own.
        """
        try:
            yield from self.list_entries(root, split)
        except InputError as error:
            is_explained = False
            for found in self._scan_manifest(root, split):
                is_explained |= isinstance(found, Issue) or not _has_files(found)
                yield found
            if not is_explained:  # what the reader refuses is in no single entry
                yield Issue.of(IssueKind.LIST, error)

    def scan_entry(self, root: Path, entry: EntryScan) -> ListedRecord:
        """What of an entry can be read; what is wrong is added to its issues.

        An audio file that an entry does not name, for it is found by the entry's id, is not looked for.
        """
        fields, folder = self.fields, root / self.name
        image = entry.take_path(root, folder, fields.image, is_required="image" in fields.required)
        question = entry.take(IssueKind.ENTRY, lambda: self.question(entry.record, has_image=image is not None))
        answers = entry.take(IssueKind.ANSWERS, lambda: entry.record.references(*fields.answers))
        names_audio = "audio" in fields.required and entry.record.optional(*fields.audio_id) is None
        audio = entry.take_path(root, folder, fields.audio, is_required=names_audio)
        return ListedRecord(question, answers or (), audio, image)

    def _scan_manifest(self, root: Path, split: str) -> Iterator[ListedRecord | Issue]:
        """Entry by entry, if the split's list is a manifest and can be read."""
        manifest = self.find_manifest(root, split)
        if manifest is None or self.official_lists(root, split):
            return
        try:
            records = read_records(manifest)
        except InputError:  # which is what the reader has said
            return
        seen: set[str] = set()
        for number, record in enumerate(records, start=1):
            entry = EntryScan(record, number)
            identifier = entry.take(IssueKind.ENTRY, lambda entry=entry: self.entry_id(entry.record, entry.number))
            if identifier in seen:
                entry.issues.append(Issue(IssueKind.DUPLICATE, str(identifier), record.where))
            elif identifier is not None:
                seen.add(identifier)
            listed = self.scan_entry(root, entry)
            yield from entry.issues
            yield listed


class AudioReader(DatasetReader[AudioRecord]):
    """Reads clips with captions, or with questions and answers."""

    kind: ClassVar[ExampleKind] = "audio"

    @abstractmethod
    def read(self, root: Path, split: str) -> tuple[list[AudioRecord], MissingClips]:
        """Reads the records of a split, in the order of its list, and which clips have no audio file.

        Raises:
            InputError: a file or field is missing or malformed, or a path leaves the root.
        """

    def records(self, root: Path, split: str) -> list[AudioRecord]:
        """Those of :meth:`read`; warns, with count and names, of clips without audio.

        Raises:
            InputError: as :meth:`read`, or no clip has its audio.
        """
        return require_clips(*self.read(root, split))

    def examples(self, root: Path, split: str, *, default_question: str = "") -> list[Example]:
        """Examples of a clip, its question or ``default_question``, and the references."""
        return convert_audio(self.records(root, split), default_question)

    def list_entries(self, root: Path, split: str) -> list[ListedRecord | Issue]:
        """The records, and an issue for each clip without audio."""
        records, missing = self.read(root, split)
        absent = [
            Issue(IssueKind.MISSING_AUDIO, clip_id, f"listed in {missing.where.name}") for clip_id in missing.clip_ids
        ]
        return [*absent, *(ListedRecord(r.question, r.captions, r.audio_path, r.image_path) for r in records)]


class VLReader(DatasetReader[VQARecord]):
    """Reads questions about images."""

    kind: ClassVar[ExampleKind] = "vl"

    def examples(self, root: Path, split: str, *, default_question: str = "") -> list[Example]:
        """An image, a question about it and the answers; without an answer where the split has no annotations."""
        del default_question
        return convert_vqa(self.records(root, split))

    def list_entries(self, root: Path, split: str) -> list[ListedRecord | Issue]:
        """The records."""
        return list_questions(self.records(root, split))


class TextReader(DatasetReader[TextRecord]):
    """Reads questions without an image, and documents."""

    kind: ClassVar[ExampleKind] = "text"

    def examples(self, root: Path, split: str, *, default_question: str = "") -> list[Example]:
        """A question and its answers, or a piece of a document."""
        del default_question
        return convert_text(self.records(root, split))


def list_questions(records: list[VQARecord]) -> list[ListedRecord | Issue]:
    """What questions about images name."""
    return [ListedRecord(record.question, record.answers, None, record.image_path) for record in records]


def _has_files(listed: ListedRecord) -> bool:
    return all(path is None or file_problem(path) is None for path in (listed.audio, listed.image))
