"""Recognizes procedural data by file names and content, since it has the formats of real data sets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from safe_train.io.files import file_problem, folder_problem

_FOLDER = re.compile(r"embedded-data-[0-9a-f]+")
_CLIP = re.compile(r"snd[a-z]\d{7}\.wav")
_HEADER = re.compile(r'"data_type":\s*"procedural"')
_HEADER_LENGTH = 4096


def is_made_root(root: Path) -> bool:
    """Whether a data root is the program's own folder, or holds its questions or its clips."""
    if is_in_made_folder([root]):
        return True
    if folder_problem(root):
        return False
    if _has_made_questions([root / "vqa"]):
        return True
    clips = root.glob("audiocaps/audio/*/*")  # of a real data set the first is enough to tell
    first = next(clips, None)
    return first is not None and _is_made_clip(first) and all(map(_is_made_clip, clips))


def are_made_images(images: Sequence[Path]) -> bool:
    """Whether images lie in the program's own folder, or in ``root/vqa/<subtype>`` beside questions that it made."""
    return is_in_made_folder(images) or _has_made_questions({image.parent.parent for image in images})


def are_made_clips(clips: Sequence[Path]) -> bool:
    """Whether clips lie in the program's own folder, or all are called as it calls them."""
    return bool(clips) and (is_in_made_folder(clips) or all(map(_is_made_clip, clips)))


def is_in_made_folder(files: Sequence[Path]) -> bool:
    """Whether a part of a path is the name of the folder that the program keeps its data in."""
    return any(_FOLDER.fullmatch(part) for file in files for part in file.parts)


def _is_made_clip(clip: Path) -> bool:
    return _CLIP.fullmatch(clip.name) is not None


def _has_made_questions(folders: Iterable[Path]) -> bool:
    """Whether a question file in one of the folders calls itself procedural."""
    for folder in folders:
        for questions in sorted(folder.glob("*questions.json")):
            if file_problem(questions):
                continue
            with questions.open(encoding="utf-8", errors="replace") as file:
                if _HEADER.search(file.read(_HEADER_LENGTH)):
                    return True
    return False
