"""Bases of three kinds, and rows with and without images."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from safe_train.configs.model_configs import EMBEDDED
from safe_train.data.cache.features import FeatureCache
from safe_train.data.collator import Collator
from safe_train.data.example import Example
from safe_train.model.audio.encoder import load_audio_encoder
from safe_train.model.loading import load_base
from safe_train.model.safe_model import AdapterConfig, SafeModel
from tests.model.families import FAMILIES

SOURCES = ("embedded", "llava", "qwen2_vl")


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    saved = {name: str(FAMILIES[name].save(root / name)) for name in SOURCES if name in FAMILIES}
    return {"embedded": EMBEDDED} | saved


@pytest.fixture(params=SOURCES)
def source(request, sources):
    return sources[request.param]


@pytest.fixture(scope="session")
def rows(tmp_path_factory) -> list[Example]:
    """Rows of different lengths, some with an image, all with a clip."""
    folder: Path = tmp_path_factory.mktemp("rows")
    rng = np.random.default_rng(0)
    found = []
    for index, question in enumerate(["what color is the circle?", "where is it?", "is there a red star or not?"]):
        image, audio = folder / f"{index}.png", folder / f"{index}.wav"
        Image.fromarray(rng.integers(0, 255, (60, 60, 3), dtype=np.uint8)).save(image)
        soundfile.write(audio, 0.1 * rng.standard_normal(32_000), 16_000)
        found.append(Example(str(index), question, ("top left",), image if index != 1 else None, audio))
    return found


@pytest.fixture
def attach():
    """Attaches SAFE to a base, with outputs that are not zero unless asked to be."""

    def build(source: str, *, trained: bool = True, lora_rank: int = 0) -> tuple[SafeModel, Collator]:
        base = load_base(source)
        last = len(base.decoder_layers) - 2
        config = AdapterConfig(
            num_audio_tokens=4, projector_hidden=16, fusion_layers=(0, last), fusion_dim=32, fusion_heads=4,
            lora_rank=lora_rank,
        )  # fmt: skip
        model = SafeModel(base, [load_audio_encoder(EMBEDDED)], config)
        if trained:
            generator = torch.Generator().manual_seed(0)
            with torch.no_grad():
                for parameter in model.trainable_parameters().values():
                    parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        return model, Collator(base.processor, FeatureCache(list(model.encoders)))

    return build
