"""A small data folder and short runs on the embedded model."""

import json

import pytest

from safe_train.config import StageAConfig, build_config
from safe_train.embedded.dataset import DatasetSizes, write_dataset
from safe_train.training.build import (
    attach,
    build_batches,
    load_base_model,
    load_examples,
)
from safe_train.training.trainer import StageATrainer


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    none = {"train_text": 0, "val_text": 0, "train_documents": 0, "val_documents": 0}
    write_dataset(root, DatasetSizes(train_questions=60, val_questions=20, train_clips=40, val_clips=12, **none))
    return root


@pytest.fixture(scope="session")
def text_folder(data_folder, tmp_path_factory):
    """The same data with text-only examples beside them: questions, and documents of different lengths."""
    root = tmp_path_factory.mktemp("data_with_text")
    for path in data_folder.iterdir():
        (root / path.name).symlink_to(path)
    (root / "text").mkdir()
    colors, shapes = ("red", "green", "blue", "yellow"), ("star", "circle", "square", "triangle")
    for split, word in (("train", "is"), ("val", "was")):
        entries = [
            {"id": f"q{split}{color}{shape}", "prompt": f"{word} a {color} {shape} a {shape}?", "answer": "yes"}
            for color in colors
            for shape in shapes
        ]
        entries += [
            {"id": f"d{split}{count}", "text": " ".join(f"there {word} a {color} star" for color in colors[:count])}
            for count in range(1, 5)
        ]
        (root / "text" / f"{split}.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return root


@pytest.fixture
def configure(data_folder):
    """A configuration of eight short steps; keyword arguments are dotted settings with ``__`` for the dot."""

    def build(**settings) -> StageAConfig:
        defaults = {
            "data.root": data_folder, "optimization.max_steps": 8, "optimization.audio_batch_size": 4,
            "optimization.vl_batch_size": 4, "optimization.gate_warmup_ratio": 0, "checkpoint_every": 4,
            "retention.fisher_samples": 8, "log_every": 1,
        }  # fmt: skip
        changes = {key.replace("__", "."): value for key, value in settings.items()}
        return build_config({}, {key: str(value) for key, value in (defaults | changes).items()})

    return build


@pytest.fixture
def prepare():
    """Stage A of a configuration, not yet started."""

    def build(config: StageAConfig) -> StageATrainer:
        model = attach(load_base_model(config), config)
        return StageATrainer(
            config,
            model,
            build_batches(config, model, load_examples(config)),
        )

    return build
