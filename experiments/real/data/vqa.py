"""Builds the questions about images of a data root: ``vqa/``, in the form of VQA v2.

    python -m experiments.real.data.vqa ROOT

Two sources:

- easy-VQA (V. Zhou, 2019): drawn shapes, 64 x 64. Its official test images are ``val``; a tenth of its official
  training images are ``tune``, the others ``train``.
- The captioned pictures of Tux Paint's stamps that are neither symbols nor cartoons, on white. Each is asked for its
  name, if its caption tells one, and for its category, if its folder tells one.

A picture and its variants are in one split only: names that differ by a number, a letter or a side (``frog``,
``frog-1``), and images that look alike, mirrored or not.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.real.data.baselines import Asked, score_majority
from experiments.real.data.sources import read_json, require_file, require_folder
from experiments.real.data.splits import assign_splits
from experiments.real.packages import unpacked
from safe_train.cli.errors import one_line_errors
from safe_train.io.files import file_problem, json_text, staged_folder, write_text

EASY_VQA, STAMPS = "easy-vqa", "tuxpaint-stamps-default"
"""The packages."""

LONGEST_SIDE = 224
"""Pixels of the longer side; larger images are made smaller."""

SHAPE_SHARES = {"tune": 0.1, "train": 0.9}
PHOTOGRAPH_SHARES = {"val": 0.3, "tune": 0.1, "train": 0.6}
SPLITS = ("train", "val", "tune")

NAME, CATEGORY = "name", "category"
"""The types of questions about photographs."""

CATEGORIES = {
    "animals": "animal",
    "clothes": "clothes",
    "food": "food",
    "hobbies/music": "instrument",
    "household": "household",
    "plants": "plant",
    "town/roadsigns": "sign",
    "vehicles": "vehicle",
}
"""The category of a folder and those within it."""

NAME_QUESTION = "What is this? Answer with one or two words."
CATEGORY_QUESTION = f"What kind of thing is this: {', '.join(CATEGORIES.values())}?"

_ANSWERS = 10  # of an annotation of VQA v2
_SHAPES = {"circle", "rectangle", "triangle"}
_FIRST_PHOTOGRAPH, _FIRST_OFFICIAL_TEST = 20_001, 10_001  # image ids

# Folders of pictures that are not what they show, and of mushrooms, which are no plants.
_LEFT_OUT = {"symbols", "cartoon", "toys", "plastic"}
_UNCATEGORIZED = {"mushrooms"}
_VARIANT = re.compile(r"[-_]?\d+$|[-_](?:[a-z]|left|right|in|out|open|closed|mirror)$")
_LOOKS_ALIKE = 0.97  # correlation of 16 x 16 gray values

_FUNCTION_WORDS = {
    "a", "an", "the", "and", "or", "of", "with", "in", "on", "at", "from", "for", "by", "to", "is", "are", "like",
    "its",
}  # fmt: skip
_COLORS = {
    "black", "blue", "brown", "colorful", "gray", "green", "pink", "purple", "red", "silver", "white", "yellow",
}  # fmt: skip
_SIZES = {"big", "full", "great", "large", "little", "old", "small", "very"}


@dataclass(frozen=True)
class Question:
    """A question about an image, its answer and its type."""

    text: str
    answer: str
    kind: str


@dataclass(frozen=True)
class Picture:
    """An image file and what is asked about it; pictures of one ``group`` belong into one split."""

    path: Path
    image_id: int
    group: str
    questions: tuple[Question, ...]


def build_vqa(root: Path, packages: Callable[[str], Path] = unpacked) -> dict[str, Any]:
    """Builds ``root/vqa``: for ``train``, ``val`` and ``tune`` the official pair of files, and images of mode RGB.

    Args:
        root: the data root. An older ``vqa`` in it is replaced.
        packages: gives the folder in which a package is unpacked.

    Returns:
        The counts and baselines, also written to ``vqa/summary.json``; see :func:`summarize`.

    Raises:
        InputError: a package has another layout, or the root cannot be written.
    """
    pictures = [*read_shapes(packages(EASY_VQA)), *hold_out_photographs(read_photographs(packages(STAMPS)))]
    splits = {name: [picture for split, picture in pictures if split == name] for name in SPLITS}
    summary = summarize(splits)
    with staged_folder(root / "vqa") as folder:
        for split, held in splits.items():
            _write_split(folder, split, held)
        write_text(folder / "summary.json", json_text(summary))
    return summary


def read_shapes(package: Path) -> list[tuple[str, Picture]]:
    """The pictures of easy-VQA with their splits.

    Raises:
        InputError: the package has another layout.
    """
    folder = package / "easy_vqa" / "data"
    train = _read_official_shapes(folder / "train", 1)
    tuned = assign_splits([picture.group for picture in train], SHAPE_SHARES)
    test = _read_official_shapes(folder / "test", _FIRST_OFFICIAL_TEST)
    return [(tuned[picture.group], picture) for picture in train] + [("val", picture) for picture in test]


def _read_official_shapes(folder: Path, first_id: int) -> list[Picture]:
    questions: dict[int, list[Question]] = defaultdict(list)
    for text, answer, image in read_json(folder / "questions.json", EASY_VQA):
        questions[image].append(Question(text, answer, _kind_of_shape_question(answer)))
    paths = {image: require_file(folder / "images" / f"{image}.png", EASY_VQA) for image in sorted(questions)}
    return [
        Picture(path, first_id + image, _digest(path.read_bytes()), tuple(questions[image]))
        for image, path in paths.items()
    ]


def _kind_of_shape_question(answer: str) -> str:
    if answer in ("yes", "no"):
        return "yes/no"
    return "shape" if answer in _SHAPES else "color"


def read_photographs(package: Path) -> list[Picture]:
    """The captioned pictures of the stamps about which something can be asked, in the order of their paths.

    Of files with equal bytes the first is read.

    Raises:
        InputError: the package has another layout.
    """
    stamps = require_folder(package / "usr" / "share" / "tuxpaint" / "stamps", STAMPS)
    found = [path.relative_to(stamps) for path in sorted(stamps.rglob("*.png"))]
    captioned = [path for path in found if not _LEFT_OUT & set(path.parts) and _caption(stamps / path)]
    first = {_digest((stamps / path).read_bytes()): path for path in reversed(captioned)}
    paths = sorted(first.values())
    pictures = [
        Picture(stamps / path, _FIRST_PHOTOGRAPH + number, group, _photograph_questions(stamps, path))
        for number, (path, group) in enumerate(zip(paths, group_pictures(stamps, paths), strict=True))
    ]
    return [picture for picture in _drop_ambiguous_names(pictures) if picture.questions]


def _photograph_questions(stamps: Path, path: Path) -> tuple[Question, ...]:
    name, category = name_of(_caption(stamps / path), path.stem), category_of(path)
    questions = (Question(NAME_QUESTION, name or "", NAME), Question(CATEGORY_QUESTION, category or "", CATEGORY))
    return tuple(question for question in questions if question.answer)


def _caption(path: Path) -> str:
    """The English caption: the first line of the text beside the image."""
    text = path.with_suffix(".txt")
    return "" if file_problem(text) else text.read_text(encoding="utf-8").partition("\n")[0].strip()


def name_of(caption: str, stem: str) -> str | None:
    """The name of what is shown, one or two words of its caption in lower case; None where the caption tells none.

    The caption's first sentence has to be a noun phrase that begins with A, An or The. Capitalized words, colors, sizes
    and participles in -ed before its noun are dropped. If one word is left, this is the name. Of several, it is the
    longest end of at most two words that the file's name has too: ``electric kettle`` of ``kettle.png`` is a kettle,
    ``sea lion`` of ``sea_lion.png`` no lion.
    """
    sentence = re.split(r"[.!?]", re.sub(r"\([^)]*\)|[“”,\"]", "", caption))[0]
    found = re.fullmatch(r"(?:An?|The) (?:(?:pair|bunch) of )?([\w -]+)", sentence.strip())
    words = found.group(1).split() if found else []
    if not 1 <= len(words) <= 4 or _FUNCTION_WORDS & set(words):
        return None
    if len(words) > 1 and not words[-1].islower():
        return None
    while len(words) > 1 and _is_modifier(words[0]):
        words = words[1:]
    if len(words) == 1:
        return words[0].lower()
    joined = re.sub(r"[-_]", "", stem.lower())
    ends = (words[-length:] for length in (2, 1))
    return next((" ".join(end) for end in ends if "".join(end) in joined), None)


def _is_modifier(word: str) -> bool:
    return not word.islower() or word in _COLORS | _SIZES or (len(word) > 5 and word.endswith("ed"))


def category_of(path: Path) -> str | None:
    """The category of a picture by its folder, or None; the path is relative to the stamps."""
    if _UNCATEGORIZED & set(path.parts):
        return None
    folders = (parent.as_posix() for parent in path.parents)
    return next((CATEGORIES[folder] for folder in folders if folder in CATEGORIES), None)


def _drop_ambiguous_names(pictures: Sequence[Picture]) -> list[Picture]:
    """Without the questions for a name where pictures of one group have several, such as gravestone and headstone."""
    names: dict[str, set[str]] = defaultdict(set)
    for picture in pictures:
        names[picture.group] |= {question.answer for question in picture.questions if question.kind == NAME}
    return [
        replace(picture, questions=tuple(q for q in picture.questions if q.kind != NAME))
        if len(names[picture.group]) > 1
        else picture
        for picture in pictures
    ]


def group_pictures(stamps: Path, paths: Sequence[Path]) -> list[str]:
    """The group of each picture: that of the first picture which is the same, but for a variant.

    Pictures are variants of each other if their names are equal but for a number, a letter or a side, or if the
    correlation of their gray values, 16 x 16, one of them mirrored or not, is above 0.97.
    """
    groups = [path.as_posix() for path in paths]
    stems = [_drop_variant(path.stem) for path in paths]
    alike = _alike([read_on_white(stamps / path) for path in paths])
    for later in range(len(paths)):
        for earlier in range(later):
            if stems[earlier] == stems[later] or alike[earlier, later]:
                joined, kept = groups[later], groups[earlier]
                groups = [kept if group == joined else group for group in groups]
    return groups


def _drop_variant(stem: str) -> str:
    shorter = _VARIANT.sub("", stem.lower())
    return shorter if shorter in ("", stem.lower()) else _drop_variant(shorter)


def _alike(images: Sequence[Image.Image]) -> np.ndarray:
    """Which pairs of images are alike, mirrored or not: booleans, ``(images, images)``."""
    gray = np.stack([np.asarray(image.convert("L").resize((16, 16)), np.float64) for image in images])
    gray -= gray.mean((1, 2), keepdims=True)
    gray /= np.linalg.norm(gray, axis=(1, 2), keepdims=True) + 1e-9
    flat, mirrored = gray.reshape(len(gray), -1), gray[:, :, ::-1].reshape(len(gray), -1)
    return np.maximum(flat @ flat.T, flat @ mirrored.T) > _LOOKS_ALIKE


def hold_out_photographs(pictures: Sequence[Picture]) -> list[tuple[str, Picture]]:
    """The split of each photograph, with the same shares of groups in each of the stamps' main folders."""
    folders: dict[str, list[str]] = defaultdict(list)
    for picture in pictures:
        folders[picture.group.partition("/")[0]].append(picture.group)
    splits: dict[str, str] = {}
    for groups in folders.values():
        splits |= assign_splits(groups, PHOTOGRAPH_SHARES)
    return [(splits[picture.group], picture) for picture in pictures]


def read_on_white(path: Path) -> Image.Image:
    """An image on white where it is transparent, RGB, with at most ``LONGEST_SIDE`` pixels a side."""
    with Image.open(path, formats=("PNG",)) as opened:
        image = opened.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    white.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    return white.convert("RGB")


def _write_split(folder: Path, split: str, pictures: Sequence[Picture]) -> None:
    subtype = f"{split}2014"
    (folder / subtype).mkdir()
    for picture in pictures:
        read_on_white(picture.path).save(folder / subtype / f"COCO_{subtype}_{picture.image_id:012d}.png")
    asked = [
        (picture.image_id, picture.image_id * 1_000 + number, question)
        for picture in pictures
        for number, question in enumerate(picture.questions)
    ]
    questions = [
        {"image_id": image, "question": question.text, "question_id": identifier}
        for image, identifier, question in asked
    ]
    annotations = [_annotation(*entry) for entry in asked]
    header = {"data_type": "mscoco", "data_subtype": subtype}
    _write_json(folder / f"v2_OpenEnded_mscoco_{subtype}_questions.json", {**header, "questions": questions})
    _write_json(folder / f"v2_mscoco_{subtype}_annotations.json", {**header, "annotations": annotations})


def _annotation(image: int, identifier: int, question: Question) -> dict[str, Any]:
    answers = [
        {"answer": question.answer, "answer_confidence": "yes", "answer_id": number + 1} for number in range(_ANSWERS)
    ]
    return {
        "question_type": question.kind,
        "multiple_choice_answer": question.answer,
        "answers": answers,
        "image_id": image,
        "answer_type": "yes/no" if question.kind == "yes/no" else "other",
        "question_id": identifier,
    }


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False) + "\n")


def summarize(splits: Mapping[str, Sequence[Picture]]) -> dict[str, Any]:
    """Counts, and what an answer that does not look at the image would score.

    Returns:
        Of each split its images and questions, in all and by type. Of the questions of ``val``, in all and by type, the
        share right if each gets the most frequent answer in ``train`` of its type (``majority_of_type``) and of its own
        text (``majority_of_question``), and of ``val``'s names, how many are the name of some image in ``train``.
    """
    train, val = (_questions(splits[name]) for name in ("train", "val"))
    names = {question.answer for question in train if question.kind == NAME}
    return {
        "splits": {
            name: {
                "images": len(pictures),
                "questions": len(_questions(pictures)),
                "by_type": dict(sorted(Counter(question.kind for question in _questions(pictures)).items())),
            }
            for name, pictures in splits.items()
        },
        "baselines": {
            "majority_of_type": score_majority(map(_by_type, train), map(_by_type, val)),
            "majority_of_question": score_majority(map(_by_text, train), map(_by_text, val)),
        },
        "val_names_seen_in_train": sum(question.kind == NAME and question.answer in names for question in val),
    }


def _by_type(question: Question) -> Asked:
    return Asked(question.kind, question.kind, question.answer)


def _by_text(question: Question) -> Asked:
    return Asked(question.text, question.kind, question.answer)


def _questions(pictures: Iterable[Picture]) -> list[Question]:
    return [question for picture in pictures for question in picture.questions]


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()


@one_line_errors
def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser("experiments.real.data.vqa", description=__doc__)
    parser.add_argument("root", type=Path, help="data root")
    print(json_text(build_vqa(parser.parse_args(arguments).root)), end="")


if __name__ == "__main__":
    main()
