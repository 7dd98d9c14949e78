"""Stage A on few rows, for runs that are to survive something."""

from __future__ import annotations

import pytest

from safe_train.config import StageAConfig, build_config
from safe_train.training.build import (
    attach,
    build_batches,
    load_base_model,
    load_examples,
)
from safe_train.training.trainer import StageATrainer


@pytest.fixture(scope="session")
def settings(small_data) -> dict[str, str]:
    """Eight short steps with all mechanisms."""
    return {
        "data.root": str(small_data), "optimization.max_steps": "8", "optimization.audio_batch_size": "4",
        "optimization.vl_batch_size": "4", "optimization.gate_warmup_ratio": "0", "checkpoint_every": "2",
        "retention.fisher_samples": "8", "log_every": "1",
    }  # fmt: skip


@pytest.fixture(scope="session")
def configure(settings):
    """The configuration; keyword arguments are dotted settings with ``__`` for the dot."""

    def build(**changes) -> StageAConfig:
        return build_config({}, settings | {key.replace("__", "."): str(value) for key, value in changes.items()})

    return build


@pytest.fixture(scope="session")
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
