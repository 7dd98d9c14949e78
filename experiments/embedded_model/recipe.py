"""Makes the embedded weights again: ``python -m experiments.embedded_model.recipe [--output FOLDER]``.

One thread and fixed seeds: the same machine gives the same weights.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from experiments.embedded_model.train_audio import AudioClasses, AudioRecipe, train_audio
from experiments.embedded_model.train_base import BaseRecipe, ScenePool, document_losses, train_answers, train_vision
from safe_train.data.datasets.vqa import VQA
from safe_train.data.example import Example
from safe_train.embedded import weights
from safe_train.embedded.dataset import DatasetSizes, embedded_data_root
from safe_train.embedded.models import build_audio_encoder, build_base, build_feature_extractor, build_processor
from safe_train.embedded.text_skills import NOT_LEARNED, TEXT_TYPES, sample_text_question
from safe_train.evaluation.base_answers import base_answers
from safe_train.evaluation.settings import EvaluationSettings
from safe_train.io.files import split_lines
from safe_train.model.base import Base
from safe_train.model.loading import load_base

logger = logging.getLogger(__name__)


def make_audio_encoder(folder: Path, recipe: AudioRecipe) -> AudioClasses:
    """Trains and saves the audio encoder; returns its accuracies on held-out clips."""
    model, extractor = build_audio_encoder(recipe.seed), build_feature_extractor()
    classes = train_audio(model, extractor, recipe)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return classes


def make_base(folder: Path, recipe: BaseRecipe) -> None:
    """Trains and saves the vision-language model with its processor."""
    processor = build_processor()
    model = build_base(processor, recipe.seed)
    pool = ScenePool(processor, recipe.num_scenes, recipe.seed)
    train_vision(model, pool, recipe)
    train_answers(model, processor, pool, recipe)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


@dataclass(frozen=True)
class BaseMeasures:
    """What the base can do on the validation split; accuracies are VQA's, by ``generate``, in 0..1.

    Attributes:
        images: accuracy on questions about images by type, and over all of them.
        text: accuracy on questions without an image by type, and over all of them.
        not_learned: accuracy on questions that it was taught as well, and that the data leave out.
        documents: bits per byte of the documents: of the base, and of two guesses that know no context.
    """

    images: dict[str, float]
    text: dict[str, float]
    not_learned: dict[str, float]
    documents: dict[str, float]


def measure_base(folder: Path) -> BaseMeasures:
    """Measures the base on the 2,000 questions, 600 questions without an image and 100 documents for validation."""
    root, base = embedded_data_root(DatasetSizes()), load_base(str(folder))
    questions, documents = _read_text(root, "val")
    return BaseMeasures(
        images=_accuracies(base, VQA().examples(root, "val")),
        text=_accuracies(base, questions),
        not_learned=_accuracies(base, [row for kind in NOT_LEARNED for row in _drawn(kind)]),
        documents=_bits_per_byte(base, documents, _read_text(root, "train")[1]),
    )


def _read_text(root: Path, split: str) -> tuple[list[Example], list[str]]:
    """Questions without an image, and documents."""
    text = (root / "text" / f"{split}.jsonl").read_text(encoding="utf-8")
    records = [json.loads(line) for line in split_lines(text)]
    questions = [Example(r["id"], r["prompt"], (r["answer"],), kind=r["type"]) for r in records if "prompt" in r]
    return questions, [record["text"] for record in records if "text" in record]


def _drawn(kind: str, count: int = 200) -> list[Example]:
    """Questions of a kind that the data do not hold."""
    rng = np.random.default_rng([0, TEXT_TYPES.index(kind)])
    questions = [sample_text_question(kind, rng) for _ in range(count)]
    return [Example(str(number), q.prompt, (q.answer,), kind=kind) for number, q in enumerate(questions)]


def _accuracies(base: Base, rows: Sequence[Example]) -> dict[str, float]:
    by_kind: dict[str, list[float]] = defaultdict(list)
    for row, score in zip(rows, base_answers(base, rows, EvaluationSettings()).scores, strict=True):
        by_kind[row.kind].append(score)
        by_kind["all"].append(score)
    return {kind: sum(values) / len(values) for kind, values in sorted(by_kind.items())}


@torch.no_grad()
def _bits_per_byte(base: Base, documents: list[str], train_documents: list[str]) -> dict[str, float]:
    """Bits that the tokens cost, over the bytes of the texts in UTF-8."""
    tokenizer = base.processor.tokenizer
    ids, train_ids = (
        [number for text in texts for number in tokenizer(text, add_special_tokens=False).input_ids]
        for texts in (documents, train_documents)
    )
    seen, size = Counter(train_ids), len(tokenizer)
    costs = {
        "the base": document_losses(base.model, tokenizer, documents).sum().item() / math.log(2),
        "frequencies of the tokens in the train split": -sum(
            math.log2((seen[number] + 1) / (len(train_ids) + size)) for number in ids
        ),
        "all tokens alike": len(ids) * math.log2(size),
    }
    num_bytes = sum(len(text.encode()) for text in documents)
    return {name: bits / num_bytes for name, bits in costs.items()}


def write_model_card(folder: Path, title: str, what: str, recipe: object, tables: str) -> None:
    """Writes ``README.md`` with what the model is, how it was made and what was measured."""
    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", "transformers"))
    (folder / "README.md").write_text(
        f"---\nlicense: apache-2.0\nlibrary_name: transformers\n---\n# {title}\n\n{what}\n\n"
        f"Made by `make embedded` ({versions}, one CPU thread) with\n`{json.dumps(asdict(recipe))}`.\n\n"  # type: ignore[call-overload]
        f"{tables}",
        encoding="utf-8",
    )


def _percent_table(heading: str, accuracies: dict[str, float]) -> str:
    rows = "\n".join(f"| {name} | {100 * value:.1f} |" for name, value in accuracies.items())
    return f"| {heading} | accuracy in percent |\n|---|---|\n{rows}\n"


def _base_tables(measures: BaseMeasures) -> str:
    documents = "\n".join(f"| {name} | {value:.3f} |" for name, value in measures.documents.items())
    return "\n".join(
        (
            _percent_table("questions about held-out images", measures.images),
            _percent_table("questions without an image, validation split", measures.text),
            _percent_table("taught and not learned, not in the data", measures.not_learned),
            f"| held-out documents, predicted by | bits per byte |\n|---|---|\n{documents}\n",
        )
    )


def main() -> None:
    """Makes both models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=weights.base_folder().parent, help="folder for the weights")
    parser.add_argument("--measure-only", action="store_true", help="measure only, and only the base")
    parser.add_argument("--only", choices=("base", "audio_encoder"), help="make one of the two")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    start = time.perf_counter()
    if arguments.only != "base" and not arguments.measure_only:
        _audio_encoder(arguments.output / "audio_encoder")
    if arguments.only != "audio_encoder":
        _base(arguments.output / "base", measure_only=arguments.measure_only)
    logger.info("done in %.0f s", time.perf_counter() - start)


def _audio_encoder(folder: Path) -> None:
    classes = make_audio_encoder(folder, AudioRecipe())
    write_model_card(
        folder,
        "Embedded audio encoder",
        "A CLAP audio tower of 0.08 M parameters that tells 30 procedural sounds apart (two seconds, 16 kHz).",
        AudioRecipe(),
        _percent_table("measured on held-out data", asdict(classes)),
    )


def _base(folder: Path, *, measure_only: bool) -> None:
    if not measure_only:
        make_base(folder, BaseRecipe())
    measures = measure_base(folder)
    logger.info("%s", measures)
    write_model_card(
        folder,
        "Embedded vision-language model",
        "A LLaVA of 1.3 M parameters (CLIP vision tower, Llama decoder) that answers questions about colored shapes\n"
        "and scanned digits in 48 x 48 images, answers questions without an image, and continues short documents.\n"
        "It exists so that everything else can be shown offline on a CPU.\n\n"
        "Questions without an image ask for sums, comparisons, what comes next, opposites, facts and kinds. The model\n"
        "learned all of these, those of the validation split too: the splits serve to protect some skills and to\n"
        "measure others. The rest (`repeat`, `reverse`) ask for words of the question and are drawn anew. Who has\n"
        "what of two (`recall`) was taught, too, and not learned; the data leave it out.",
        BaseRecipe(),
        _base_tables(measures),
    )


if __name__ == "__main__":
    main()
