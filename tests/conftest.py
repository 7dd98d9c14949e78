"""What many tests share: the embedded base, SAFE attached to it, and small procedural data."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Read when huggingface_hub is imported: a test that asks for the network fails at once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import hypothesis
import pytest
import torch

if TYPE_CHECKING:  # the kernels' tests run where the trainer's dependencies are not installed
    from safe_train.model.base import Base
    from safe_train.model.safe_model import SafeModel

# The same examples in every run, so that a failure is everybody's failure.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
hypothesis.settings.load_profile("fixed")

SMALL_SIZES = {
    "train_questions": 60, "val_questions": 40, "train_clips": 40, "val_clips": 24,
    "train_text": 60, "val_text": 60, "train_documents": 12, "val_documents": 12,
}  # fmt: skip
"""Sizes of the small procedural data."""


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Sums are then taken in the same order on every machine with the same instructions."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def safe_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test reads or writes the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAFE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with few rows in the official formats; tests read it only."""
    from safe_train.embedded.dataset import DatasetSizes, write_dataset

    root = tmp_path_factory.mktemp("small_data")
    write_dataset(root, DatasetSizes(**SMALL_SIZES))
    return root


@pytest.fixture(scope="session")
def embedded_base() -> Base:
    """The untouched embedded base; nothing may be attached to it."""
    from safe_train.config import StageAConfig
    from safe_train.training.build import load_base_model

    return load_base_model(StageAConfig())


@pytest.fixture
def make_safe_model() -> Callable[..., SafeModel]:
    """Attaches SAFE to a fresh embedded base; settings are dotted, as for ``--set``."""
    from safe_train.config import build_config
    from safe_train.training.build import attach, load_base_model

    def make(*, output_scale: float = 0.0, **settings: str) -> SafeModel:
        config = build_config({}, settings)
        model = attach(load_base_model(config), config)
        generator = torch.Generator().manual_seed(0)
        for fusion in model.fusions:  # zero at initialization, which hides what the fusion does
            torch.nn.init.normal_(fusion.output.weight, std=output_scale, generator=generator)
        return model

    return make
