"""Visual questions: the official VQA v2 files, or a manifest with one entry for each question."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from safe_train.data.datasets.entry_scan import EntryFields
from safe_train.data.datasets.issues import Issue, ListedRecord
from safe_train.data.datasets.manifest import (
    Record,
    as_record,
    read_json,
    read_records,
    require_set_folder,
    required_file,
    strip_placeholder,
)
from safe_train.data.datasets.reader import VLReader, list_questions
from safe_train.data.datasets.records import VQARecord
from safe_train.errors import InputError
from safe_train.io.files import file_problem
from safe_train.io.messages import shortened, value_shown

_IMAGE_SUFFIXES = (".jpg", ".png")


class VQA(VLReader):
    """VQA v2, or your own list of questions about images.

    Tried in turn in ``root/vqa/``: the official pair ``v2_OpenEnded_mscoco_val2014_questions.json`` and
    ``v2_mscoco_val2014_annotations.json``, with images ``val2014/COCO_val2014_000000000042.jpg`` or ``.png``; then
    ``vqa_val.jsonl``, ``vqa_val.json``, ``val.jsonl``, ``val.json``. The test splits of VQA v2 are of 2015 and have no
    public annotations; every other official split must have its annotations.

    A manifest entry has ``question_id`` or ``id``; ``question`` or ``question_text``; ``answers`` or ``answer``;
    ``image`` or ``image_path``, relative to the root or to ``root/vqa/``; and, optionally, ``image_id``,
    ``question_type`` and ``answer_type``. Without ``image_id`` the images are numbered as they first appear.
    """

    name = "vqa"
    fields = EntryFields(
        identifier=("question_id", "id"), question=("question", "question_text"), audio=(), required=("image",)
    )

    def official_lists(self, root: Path, split: str) -> list[Path]:
        """The official questions of a split, if they are there."""
        questions = root / self.name / _questions_name(split)
        return [questions] if file_problem(questions) is None else []

    def records(self, root: Path, split: str) -> list[VQARecord]:
        """Reads the questions of a split, in the order of the file.

        Raises:
            InputError: a file, image or field is missing, a file is malformed, a question id appears twice, a question
                has no annotation, or a path leaves the root.
        """
        require_set_folder(root, self.name)
        records = self._read_official(root, split) or self._read_manifest(root, split)
        _require_images(records)
        return records

    def list_entries(self, root: Path, split: str) -> list[ListedRecord | Issue]:
        """The questions, also where an official one's image is not there."""
        return list_questions(self._read_official(root, split) or self.records(root, split))

    def question(self, record: Record, *, has_image: bool) -> str:
        """The question of an entry, which always has one, and an image too.

        Raises:
            InputError: it is missing, blank, or cannot be encoded.
        """
        del has_image
        return record.question(*self.fields.question, has_image=True)

    def _read_official(self, root: Path, split: str) -> list[VQARecord]:
        """The official pair, or nothing where there is none."""
        official = self.official_lists(root, split)
        return read_official(official[0], _find_annotations(root / self.name, split)) if official else []

    def _read_manifest(self, root: Path, split: str) -> list[VQARecord]:
        folder, fields = root / self.name, self.fields
        manifest = self.require_manifest(root, split, _questions_name(split))
        entries = _by_question_id(read_records(manifest), *fields.identifier)
        paths = {
            question_id: required_file(entry, fields.image, root, folder) for question_id, entry in entries.items()
        }
        image_ids = _image_ids(entries, paths)
        return [
            VQARecord(
                question_id=question_id,
                image_id=image_ids[question_id],
                question=self.question(entry, has_image=True),
                answers=entry.references(*fields.answers),
                image_path=paths[question_id],
                question_type=entry.optional_text("question_type") or "",
                answer_type=entry.optional_text("answer_type") or "",
            )
            for question_id, entry in entries.items()
        ]


def _questions_name(split: str) -> str:
    return f"v2_OpenEnded_mscoco_{_official_name(split)}_questions.json"


def _official_name(split: str) -> str:
    return f"{split}{2015 if split.startswith('test') else 2014}"


def read_official(questions_path: Path, annotations_path: Path | None) -> list[VQARecord]:
    """Reads an official pair of files, in the order of the questions; it is not checked that the images exist.

    Images are taken to lie beside the questions, in the folder that their ``data_subtype`` names. Without
    annotations the answers are empty.

    Raises:
        InputError: a file or field is missing or malformed, a question id appears twice, or a question has no
            annotation.
    """
    header, questions = _read_entries(questions_path, "questions")
    images = questions_path.parent / _folder_name(header)
    annotations = _read_entries(annotations_path, "annotations")[1] if annotations_path else None
    paths: dict[int, Path] = {}
    records = []
    for question_id, question in questions.items():
        image_id = question.integer("image_id")
        if image_id not in paths:
            paths[image_id] = _official_image(images, image_id)
        annotation = _annotation_of(question_id, image_id, question, annotations)
        records.append(
            VQARecord(
                question_id=question_id,
                image_id=image_id,
                question=question.question("question", has_image=True),
                answers=_official_answers(annotation) if annotation else (),
                image_path=paths[image_id],
                question_type=annotation.text("question_type") if annotation else "",
                answer_type=annotation.text("answer_type") if annotation else "",
            )
        )
    return records


def _read_entries(path: Path, key: str) -> tuple[Record, dict[int | str, Record]]:
    """The file's header, and the entries of its list ``key`` by question id."""
    header = as_record(read_json(path), str(path))
    entries = header.required(key)
    if not isinstance(entries, list) or not entries:
        raise InputError(path, f"{key} to be a non-empty list", value_shown(entries), "fetch the official file again")
    records = [as_record(entry, f"{path}: {key}[{index}]") for index, entry in enumerate(entries)]
    return header, _by_question_id(records, "question_id")


def _by_question_id(records: Iterable[Record], *names: str) -> dict[int | str, Record]:
    by_id: dict[int | str, Record] = {}
    for record in records:
        question_id = record.number_or_name(*names)
        if question_id in by_id:
            got = f"{shortened(str(question_id))} again, first at {by_id[question_id].where}"
            raise InputError(record.where, "a question id of its own", got, "remove or renumber one of the two")
        by_id[question_id] = record
    return by_id


def _folder_name(header: Record) -> str:
    name = header.text("data_subtype")
    if name != Path(name).name:
        raise InputError(
            header.where, "data_subtype to be a folder's name", repr(shortened(name)), "write it as in val2014"
        )
    return name


def _find_annotations(folder: Path, split: str) -> Path | None:
    path = folder / f"v2_mscoco_{_official_name(split)}_annotations.json"
    if file_problem(path) is None:
        return path
    if split.startswith("test"):
        return None
    raise InputError(path, "the annotations of the questions", "no such file", "put the official file there")


def _annotation_of(
    question_id: int | str, image_id: int, question: Record, annotations: dict[int | str, Record] | None
) -> Record | None:
    if annotations is None:
        return None
    annotation = annotations.get(question_id)
    if annotation is None:
        hint = "use questions and annotations of the same split"
        name = shortened(str(question_id))
        raise InputError(question.where, f"an annotation of question {name}", "none", hint)
    if annotation.integer("image_id") != image_id:
        got = shortened(str(annotation.integer("image_id")))
        raise InputError(annotation.where, f"image_id {image_id}, as in the question", got, "use files of one release")
    return annotation


def _official_answers(annotation: Record) -> tuple[str, ...]:
    answers = annotation.required("answers")
    if not isinstance(answers, list) or not answers:
        raise InputError(annotation.where, "answers to be a non-empty list", value_shown(answers), "mend the entry")
    records = [as_record(answer, f"{annotation.where}.answers[{index}]") for index, answer in enumerate(answers)]
    return tuple(strip_placeholder(record.text("answer"), record.where) for record in records)


def _official_image(folder: Path, image_id: int) -> Path:
    """The image's path with the suffix that exists, or else with the official suffix."""
    stem = f"COCO_{folder.name}_{image_id:012d}"
    candidates = [folder / f"{stem}{suffix}" for suffix in _IMAGE_SUFFIXES]
    return next((path for path in candidates if file_problem(path) is None), candidates[0])


def _image_ids(records: dict[int | str, Record], paths: dict[int | str, Path]) -> dict[int | str, int | str]:
    """The image id of each question: as written, or numbered by path if no entry writes one."""
    if any(record.optional("image_id") is not None for record in records.values()):
        return {question_id: record.number_or_name("image_id") for question_id, record in records.items()}
    numbers = {path: number for number, path in enumerate(dict.fromkeys(paths.values()))}
    return {question_id: numbers[path] for question_id, path in paths.items()}


def _require_images(records: list[VQARecord]) -> None:
    paths = dict.fromkeys(record.image_path for record in records)
    missing = {path: problem for path in paths if (problem := file_problem(path)) is not None}
    for path, problem in missing.items():
        got = f"{problem}, and so for {len(missing)} of {len(paths)} images"
        raise InputError(path, "an image", got, "put the images there or remove their questions")
