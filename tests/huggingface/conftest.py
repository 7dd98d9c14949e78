"""A model with an adapter that changes answers, saved once, and rows of the small procedural data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from safe_train.data.collator import Collator
from safe_train.data.example import Example
from safe_train.data.settings import DataSettings
from safe_train.data.sources import read_audio_examples, read_vl_examples
from safe_train.huggingface import SafeForConditionalGeneration
from safe_train.model.safe_model import SafeModel
from safe_train.training.build import build_collator
from tests.huggingface.made import figures_of, loud_model


@pytest.fixture(scope="session")
def plain() -> SafeModel:
    """The model as Stage A has it."""
    return loud_model()


@pytest.fixture(scope="session")
def encoder(plain) -> Collator:
    """Its row encoder."""
    return build_collator(plain)


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """The same model saved; other weights in memory than those of `plain`."""
    target = tmp_path_factory.mktemp("adapter")
    model = loud_model()
    SafeForConditionalGeneration.from_safe_model(model, retention=figures_of(model)).save_pretrained(target)
    return target


@pytest.fixture(scope="session")
def loaded(folder) -> SafeForConditionalGeneration:
    """The model as Hugging Face loads it; tests do not change it."""
    return SafeForConditionalGeneration.from_pretrained(folder)


@pytest.fixture(scope="session")
def processor(loaded):
    """The processor of `loaded`."""
    return loaded.processor


@pytest.fixture(scope="session")
def heard(small_data) -> list[Example]:
    """VL rows, each with a clip that has nothing to do with it."""
    data = DataSettings(root=str(small_data))
    vl = read_vl_examples("vqa", data, "val").draw(None, 0).rows
    audio = read_audio_examples("audiocaps", data, "val").draw(None, 0).rows
    return [replace(row, audio=audio[index % len(audio)].audio) for index, row in enumerate(vl)]
