"""Writes the procedural data: VQA v2 (JSON and images), AudioCaps (CSV and WAV) and text (JSON, one object a line)."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from safe_train.embedded.questions import sample_question
from safe_train.embedded.scenes import render, sample_scene, scan_indices
from safe_train.embedded.sounds import ALL_SOUNDS, SAMPLE_RATE, synthesize
from safe_train.embedded.text_skills import (
    IN_CONTEXT,
    SKILLS,
    TEXT_TYPES,
    TextQuestion,
    known_questions,
    sample_document,
    sample_text_question,
    split_of,
)
from safe_train.errors import InputError
from safe_train.io.cache import cache_root

logger = logging.getLogger(__name__)

_SPLIT_SEEDS = {"train": 101, "val": 202, "tune": 303}
_CLIP_PREFIXES = {"train": "sndt", "val": "sndv", "tune": "sndu"}
_NUM_ANSWERS = 10
_QUESTIONS_PER_IMAGE = 2


@dataclass(frozen=True)
class DatasetSizes:
    """Rows of each split; ``questions`` are those about images.

    The split ``tune``, for choosing settings on rows that no evaluation sees, is written where it has rows.
    """

    train_questions: int = 2_000
    val_questions: int = 2_000
    train_clips: int = 600
    val_clips: int = 400
    train_text: int = 600
    val_text: int = 600
    train_documents: int = 100
    val_documents: int = 100
    tune_questions: int = 0
    tune_clips: int = 0
    tune_text: int = 0
    tune_documents: int = 0


def embedded_data_root(sizes: DatasetSizes = DatasetSizes()) -> Path:
    """The folder of the procedural data, written at first use.

    The folder lies under ``$SAFE_CACHE`` (default ``~/.cache/safe``) and its name holds a digest of the generator's
    sources and the sizes, so that data of another version are never read.

    Raises:
        InputError: the folder cannot be written.
    """
    folder = cache_root() / f"embedded-data-{_digest(sizes)}"
    if not folder.is_dir():
        logger.info("writing the procedural data to %s", folder)
        try:
            _write_whole(folder, sizes)
        # libsndfile's errors are RuntimeErrors
        except (OSError, soundfile.SoundFileError) as error:
            if not folder.is_dir():  # otherwise another process was faster
                raise InputError(
                    folder, "a folder that can be written", str(error), "set SAFE_CACHE to another"
                ) from error
    return folder


def _write_whole(folder: Path, sizes: DatasetSizes) -> None:
    """Writes beside the folder and renames, so that it is complete or absent."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = folder.with_name(f"{folder.name}-{secrets.token_hex(4)}")
    staging.mkdir()
    try:
        write_dataset(staging, sizes)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def write_dataset(root: Path, sizes: DatasetSizes) -> None:
    """Writes ``root/vqa``, ``root/audiocaps`` and ``root/text``, split by split.

    The splits share no scene, clip, document and nothing that a question without an image asks for. The digits of the
    validation are scans of their own; those of the split ``tune`` are the training's.
    """
    for split in _SPLIT_SEEDS:
        questions, clips, text, documents = (
            getattr(sizes, f"{split}_{rows}") for rows in ("questions", "clips", "text", "documents")
        )
        if questions:
            _write_vqa(root / "vqa", split, questions)
        if clips:
            _write_audiocaps(root / "audiocaps", split, clips)
        if text or documents:
            _write_text(root / "text", split, text, documents)


def _write_vqa(folder: Path, split: str, num_questions: int) -> None:
    subtype = f"{split}2014"
    images = folder / subtype
    images.mkdir(parents=True)
    rng = np.random.default_rng([_SPLIT_SEEDS[split], 0])
    scans = scan_indices(split)
    questions: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id in range(1, -(-num_questions // _QUESTIONS_PER_IMAGE) + 1):
        scene = sample_scene(rng, scans)
        render(scene).save(images / f"COCO_{subtype}_{image_id:012d}.png")
        for question in _distinct_questions(scene, rng)[: num_questions - len(questions)]:
            question_id = image_id * 1000 + len(questions) % _QUESTIONS_PER_IMAGE
            common = {"image_id": image_id, "question_id": question_id}
            questions.append(common | {"question": question.text})
            annotations.append(
                common
                | {
                    "question_type": question.question_type,
                    "answer_type": question.answer_type,
                    "multiple_choice_answer": question.answer,
                    "answers": [
                        {"answer_id": k, "answer": question.answer, "answer_confidence": "yes"}
                        for k in range(1, _NUM_ANSWERS + 1)
                    ],
                }
            )
    header = {
        "info": {"description": "Procedural questions about colored shapes and scanned digits", "version": "1.0"},
        "data_type": "procedural",
        "data_subtype": subtype,
    }
    _write_json(folder / f"v2_OpenEnded_mscoco_{subtype}_questions.json", header | {"questions": questions})
    _write_json(folder / f"v2_mscoco_{subtype}_annotations.json", header | {"annotations": annotations})


def _distinct_questions(scene: Any, rng: np.random.Generator) -> list[Any]:
    drawn: dict[str, Any] = {}
    while len(drawn) < _QUESTIONS_PER_IMAGE:
        question = sample_question(scene, rng)
        drawn.setdefault(question.text, question)
    return list(drawn.values())


def _write_audiocaps(folder: Path, split: str, num_clips: int) -> None:
    clips = folder / "audio" / split
    clips.mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for index, sound, waveform in _clips(split, num_clips):
        youtube_id = f"{_CLIP_PREFIXES[split]}{index:07d}"
        soundfile.write(clips / f"{youtube_id}.wav", waveform, SAMPLE_RATE, subtype="PCM_16")
        rows.append({"audiocap_id": index, "youtube_id": youtube_id, "start_time": 0, "caption": sound.caption})
    with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _clips(split: str, num_clips: int) -> Iterator[tuple[int, Any, np.ndarray]]:
    rng = np.random.default_rng([_SPLIT_SEEDS[split], 1])
    for index in range(1, num_clips + 1):
        sound = ALL_SOUNDS[rng.integers(len(ALL_SOUNDS))]
        yield index, sound, synthesize(sound, rng)


def _write_text(folder: Path, split: str, num_questions: int, num_documents: int) -> None:
    folder.mkdir(exist_ok=True)
    rows: list[dict[str, str]] = [
        {
            "id": f"{split}-text-{number:05d}",
            "prompt": question.prompt,
            "answer": question.answer,
            "type": question.kind,
            "cluster": question.item,
        }
        for number, question in enumerate(islice(_text_questions(split), num_questions), start=1)
    ]
    rows += [
        {"id": f"{split}-document-{number:05d}", "text": text}
        for number, text in enumerate(islice(_documents(split), num_documents), start=1)
    ]
    lines = (json.dumps(row) + "\n" for row in rows)
    (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


def _text_questions(split: str) -> Iterator[TextQuestion]:
    """Distinct questions of a split without end, the types in turn; a type that has no more is left out."""
    sources = {kind: _asked_in_context(kind, split) if kind in IN_CONTEXT else _known(kind, split) for kind in SKILLS}
    while True:
        for source in sources.values():
            yield from islice(source, 1)


def _known(kind: str, split: str) -> Iterator[TextQuestion]:
    rng = np.random.default_rng([_SPLIT_SEEDS[split], 2, TEXT_TYPES.index(kind)])
    questions = [question for question in known_questions() if (question.kind, question.split) == (kind, split)]
    return (questions[index] for index in rng.permutation(len(questions)))


def _asked_in_context(kind: str, split: str) -> Iterator[TextQuestion]:
    rng = np.random.default_rng([_SPLIT_SEEDS[split], 2, TEXT_TYPES.index(kind)])
    seen: set[str] = set()
    while True:
        question = sample_text_question(kind, rng)
        if question.split == split and question.prompt not in seen:
            seen.add(question.prompt)
            yield question


def _documents(split: str) -> Iterator[str]:
    rng = np.random.default_rng([_SPLIT_SEEDS[split], 3])
    seen: set[str] = set()
    while True:
        text = sample_document(rng)
        if split_of(text) == split and text not in seen:
            seen.add(text)
            yield text


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def _digest(sizes: DatasetSizes) -> str:
    digest = hashlib.sha256(json.dumps(asdict(sizes), sort_keys=True).encode())
    for name in ("dataset.py", "questions.py", "scenes.py", "sounds.py", "text_skills.py"):
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()[:12]
