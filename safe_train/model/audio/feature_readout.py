"""Reads the hidden states of an audio model as features in the order of time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from safe_train.audio.waveform import SHORTEST_SECONDS

CLAP_TYPES = ("clap", "clap_audio_model")
_PATCH_TYPE = "audio-spectrogram-transformer"
_SUMMARY_TOKENS = 2  # AST's class and distillation tokens, which stand for no stretch of time


@dataclass(frozen=True)
class Readout:
    """How an encoder's features are read.

    Attributes:
        features: returns [B, n, D] in the order of time, from a model and its extractor's output for B clips.
        per_moment: number of adjacent features for the same time span (frequency bands).
    """

    features: Callable[[Any, dict[str, Tensor]], Tensor]
    per_moment: int = 1


def readout_of(model: Any, *, pooled: bool) -> Readout:
    """How a model is read: CLAP's embedding of the clip, or the grid of the last layer.

    ``pooled`` makes a difference here for CLAP alone, which is trained to have an embedding.
    """
    model_type = model.config.model_type
    if model_type in CLAP_TYPES:
        return Readout(_clap_embedding) if pooled else Readout(_clap_grid, _clap_bands(model.config))
    if model_type == _PATCH_TYPE:
        return Readout(_patches, _patch_bands(model.config))
    return Readout(_hidden_states)


def _clap_embedding(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    return model(**inputs).audio_embeds[:, None]


def _clap_grid(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """HTSAT's last layer [B, D, bands, moments], its folded spectrogram unfolded by the model itself."""
    return model(**inputs).last_hidden_state.permute(0, 3, 2, 1).flatten(1, 2)


def _clap_bands(config: Any) -> int:
    """Bands of frequency in the last layer: mel bins over the patch and a halving at each stage but the last."""
    return config.num_mel_bins // (config.patch_stride[0] * 2 ** (len(config.depths) - 1))


def _patches(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """AST's patches, which it keeps band by band."""
    states = model(**inputs).last_hidden_state[:, _SUMMARY_TOKENS:]
    return states.unflatten(1, (_patch_bands(model.config), -1)).transpose(1, 2).flatten(1, 2)


def _patch_bands(config: Any) -> int:
    return (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1


def _hidden_states(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """The last layer of the model, or of its encoder if it has a decoder too."""
    module = model.get_encoder() if model.config.is_encoder_decoder else model
    return module(**inputs).last_hidden_state


def own_window(extractor: Any) -> int | None:
    """Samples that an extractor fits every clip into; None if it takes clips of any length."""
    for name in ("nb_max_samples", "n_samples"):  # CLAP's and Whisper's
        if getattr(extractor, name, None):
            return getattr(extractor, name)
    if type(extractor).__name__ == "ASTFeatureExtractor":
        return extractor.max_length * extractor.sampling_rate // 100  # a frame every 10 ms
    return None


def window_of(extractor: Any, seconds: float | None, windows: int = 1) -> int | None:
    """Samples of a clip that are used: the shorter of the extractor's windows and so many seconds; None for all."""
    own = own_window(extractor)
    limits = (
        None if own is None else windows * own,
        None if seconds is None else int(seconds * extractor.sampling_rate),
    )
    return min((limit for limit in limits if limit is not None), default=None)


def seconds_of(window: int, sampling_rate: int) -> float:
    """Seconds that :func:`window_of` makes so many samples of; their quotient may be rounded to less."""
    seconds = window / sampling_rate
    return seconds if int(seconds * sampling_rate) == window else math.nextafter(seconds, math.inf)


def extract(extractor: Any, clip: Tensor) -> dict[str, Tensor]:
    """A model's inputs, each [1, ...], for a clip [samples]; none if it is shorter than ``SHORTEST_SECONDS``."""
    if len(clip) < SHORTEST_SECONDS * extractor.sampling_rate:
        return {}
    inputs = dict(extractor([clip.numpy()], sampling_rate=extractor.sampling_rate, return_tensors="pt"))
    if "attention_mask" in inputs and inputs["attention_mask"].all():
        del inputs["attention_mask"]  # a clip alone is padded by few extractors; without padding it says nothing
    return inputs


@torch.no_grad()
def read(model: Any, reading: Readout, inputs: Mapping[str, Tensor]) -> Tensor:
    """Features [B, n, D], float32, of clips whose :func:`extract` has the same shapes."""
    on_device = {
        name: value.to(model.device, model.dtype) if value.is_floating_point() else value.to(model.device)
        for name, value in inputs.items()
    }
    return reading.features(model, on_device).float()
