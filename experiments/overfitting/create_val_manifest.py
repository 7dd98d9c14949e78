r"""Draws questions of VQA v2 for the evaluation and writes their manifest.

    python -m experiments.overfitting.create_val_manifest \
        --questions data/vqa/v2_OpenEnded_mscoco_val2014_questions.json \
        --annotations data/vqa/v2_mscoco_val2014_annotations.json

The same files and seed give the same manifest, byte for byte.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from experiments.overfitting.arguments import OneLineParser, at_least_one, at_least_zero
from safe_train.cli.errors import one_line_errors
from safe_train.data.datasets.pack_manifest import PackedQuestion, ValManifest
from safe_train.data.datasets.records import VQARecord
from safe_train.data.datasets.vqa import read_official
from safe_train.errors import InputError
from safe_train.io.files import json_text, write_text

OUTPUT = Path("experiments/overfitting/val_manifest.json")


def draw_questions(questions: Path, annotations: Path, subset_size: int, seed: int) -> ValManifest:
    """Draws ``subset_size`` questions, in the order of their ids; the order of the files does not matter.

    Raises:
        InputError: a file is missing or malformed, or has fewer questions.
    """
    examples = {example.question_id: example for example in read_official(questions, annotations)}
    if len(examples) < subset_size:
        raise InputError(questions, f"at least {subset_size} questions", str(len(examples)), "lower --subset-size")
    drawn = sorted(random.Random(seed).sample(sorted(examples, key=_place), subset_size), key=_place)
    return ValManifest(
        subset_name="vqa_val_overfit_v1",
        description=f"{subset_size} questions of VQA v2 for the overfitting ablation",
        seed=seed,
        source_dataset="VQA v2 validation",
        entries=tuple(_pack(examples[question_id]) for question_id in drawn),
    )


def _place(question_id: int | str) -> tuple[bool, int | str]:
    """Numbers before names."""
    return isinstance(question_id, str), question_id


def majority_answer(answers: tuple[str, ...]) -> str:
    """The most frequent answer in lower case; of several, the one that is given first."""
    return Counter(answer.strip().lower() for answer in answers).most_common(1)[0][0]


def _pack(example: VQARecord) -> PackedQuestion:
    return PackedQuestion(
        question_id=example.question_id,
        image_id=example.image_id,
        image_filename=example.image_path.name,
        question=example.question,
        answers=example.answers,
        majority_answer=majority_answer(example.answers),
    )


@one_line_errors
def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = OneLineParser("create_val_manifest", __doc__)
    folder = Path("data/vqa")
    parser.add_argument(
        "--questions",
        type=Path,
        default=folder / "v2_OpenEnded_mscoco_val2014_questions.json",
        help="official file of questions",
    )
    parser.add_argument(
        "--annotations",
        type=Path,
        default=folder / "v2_mscoco_val2014_annotations.json",
        help="official file of annotations",
    )
    parser.add_argument("--subset-size", type=at_least_one, default=500, help="questions to draw")
    parser.add_argument("--seed", type=at_least_zero, default=123, help="seed of the draw")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="manifest to write")
    given = parser.parse_args(arguments)
    manifest = draw_questions(given.questions, given.annotations, given.subset_size, given.seed)
    write_text(given.output, json_text(manifest.to_dict()))
    images = len({entry.image_id for entry in manifest.entries})
    print(f"{given.output}: {len(manifest.entries)} questions about {images} images")


if __name__ == "__main__":
    main()
