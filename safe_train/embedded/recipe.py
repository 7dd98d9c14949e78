"""Makes the embedded weights again: ``python -m safe_train.embedded.recipe [--output FOLDER]`` (about half an hour).

One thread and fixed seeds: the same machine gives the same weights.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections import defaultdict
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch

from safe_train.config import EvaluationSettings
from safe_train.data.rows import vl_rows
from safe_train.data.vqa import load_vqa
from safe_train.embedded import weights
from safe_train.embedded.dataset import DatasetSizes, embedded_data_root
from safe_train.embedded.models import build_audio_encoder, build_base, build_feature_extractor, build_processor
from safe_train.embedded.train_audio import AudioClasses, AudioRecipe, train_audio
from safe_train.embedded.train_base import BaseRecipe, ScenePool, train_answers, train_vision
from safe_train.evaluation import base_answers
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


def measure_base(folder: Path) -> dict[str, float]:
    """VQA accuracy by ``generate`` on the 2,000 validation questions, by question type and overall."""
    rows = vl_rows(load_vqa(embedded_data_root(DatasetSizes()), "val"))
    scores = base_answers(load_base(str(folder)), rows, EvaluationSettings()).scores
    by_kind: dict[str, list[float]] = defaultdict(list)
    for row, score in zip(rows, scores, strict=True):
        by_kind[row.kind].append(score)
        by_kind["all"].append(score)
    return {kind: sum(values) / len(values) for kind, values in sorted(by_kind.items())}


def write_model_card(folder: Path, title: str, what: str, recipe: object, accuracies: dict[str, float]) -> None:
    """Writes ``README.md`` with what the model is, how it was made and what was measured."""
    rows = "\n".join(f"| {name} | {100 * value:.1f} |" for name, value in accuracies.items())
    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", "transformers"))
    (folder / "README.md").write_text(
        f"---\nlicense: apache-2.0\nlibrary_name: transformers\n---\n# {title}\n\n{what}\n\n"
        f"Made by `make embedded` ({versions}, one CPU thread) with\n`{json.dumps(asdict(recipe))}`.\n\n"  # type: ignore[call-overload]
        f"| measured on held-out data | accuracy in percent |\n|---|---|\n{rows}\n",
        encoding="utf-8",
    )


def main() -> None:
    """Makes both models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=weights.base_folder().parent, help="folder for the weights")
    parser.add_argument("--measure-only", action="store_true", help="measure only")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    start = time.perf_counter()
    base, audio = arguments.output / "base", arguments.output / "audio_encoder"
    if not arguments.measure_only:
        classes = make_audio_encoder(audio, AudioRecipe())
        write_model_card(
            audio,
            "Embedded audio encoder",
            "A CLAP audio tower of 0.08 M parameters that tells 30 procedural sounds apart (two seconds, 16 kHz).",
            AudioRecipe(),
            asdict(classes),
        )
        make_base(base, BaseRecipe())
    accuracies = measure_base(base)
    write_model_card(
        base,
        "Embedded vision-language model",
        "A LLaVA of 1.2 M parameters (CLIP vision tower, Llama decoder) that answers questions about colored shapes\n"
        "and scanned digits in 48 x 48 images. It exists so that everything else can be shown offline on a CPU.",
        BaseRecipe(),
        accuracies,
    )
    logger.info("done in %.0f s: %s", time.perf_counter() - start, accuracies)


if __name__ == "__main__":
    main()
