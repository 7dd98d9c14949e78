"""Frozen audio encoders: CLAP (one pooled embedding a clip) and Whisper (one embedding every 20 ms)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoFeatureExtractor, ClapAudioModelWithProjection, PreTrainedModel, WhisperModel

from configs.model_configs import EMBEDDED
from safe_train.embedded import weights
from safe_train.errors import InputError
from safe_train.model.base import _check_folder

_CLAP_TYPES = ("clap", "clap_audio_model")


@dataclass(frozen=True)
class AudioFeatures:
    """What one encoder makes of a batch of clips.

    Attributes:
        values: [B, F, D], float32.
        mask: bool [B, F]; False where a feature lies behind the end of the clip.
    """

    values: Tensor
    mask: Tensor

    def to(self, device: str | torch.device) -> AudioFeatures:
        """The same features on another device."""
        return AudioFeatures(self.values.to(device), self.mask.to(device))

    def __getitem__(self, rows: Tensor | slice) -> AudioFeatures:
        """The features of some of the clips."""
        return AudioFeatures(self.values[rows], self.mask[rows])

    @staticmethod
    def cat(parts: list[AudioFeatures]) -> AudioFeatures:
        """Joins batches along the clips."""
        return AudioFeatures(torch.cat([p.values for p in parts]), torch.cat([p.mask for p in parts]))


class AudioEncoder(nn.Module):
    """A frozen encoder with its feature extractor.

    Attributes:
        source: the hub id or folder that it was loaded from.
        sampling_rate: Hz of the waveforms it takes.
        num_features: F, features a clip.
        feature_size: D.
    """

    def __init__(self, model: PreTrainedModel, extractor: Any, source: str) -> None:
        super().__init__()
        self.model: Any = model.requires_grad_(False).eval()
        self.extractor = extractor
        self.source = source
        self.is_clap = model.config.model_type in _CLAP_TYPES
        self.sampling_rate: int = extractor.sampling_rate
        if self.is_clap:
            self.num_features, self.feature_size = 1, model.config.projection_dim
        else:
            self.num_features, self.feature_size = model.config.max_source_positions, model.config.d_model

    @torch.no_grad()
    def forward(self, waveforms: list[Tensor]) -> AudioFeatures:
        """Encodes float32 mono waveforms [samples] at ``sampling_rate``.

        Clips that are longer than the encoder's window are cropped to its start, never at random, so that the features
        of a clip are always the same.
        """
        window = getattr(self.extractor, "nb_max_samples", None) or self.extractor.n_samples
        clips = [waveform[:window].numpy() for waveform in waveforms]
        device, dtype = self.model.device, self.model.dtype
        inputs = self.extractor(clips, sampling_rate=self.sampling_rate, return_tensors="pt")
        features = inputs["input_features"].to(device=device, dtype=dtype)
        if self.is_clap:
            arguments = {"is_longer": inputs["is_longer"].to(device)} if "is_longer" in inputs else {}
            values = self.model(input_features=features, **arguments).audio_embeds[:, None]
            return AudioFeatures(values.float(), torch.ones(values.shape[:2], dtype=torch.bool, device=device))
        values = self.model.encoder(features).last_hidden_state.float()
        lengths = torch.tensor([len(clip) for clip in clips], device=device)
        samples_per_feature = window / self.num_features
        ends = (torch.arange(self.num_features, device=device) * samples_per_feature)[None]
        return AudioFeatures(values, ends < lengths[:, None])


def load_audio_encoder(
    source: str, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> AudioEncoder:
    """Loads a CLAP or Whisper encoder by local folder or hub id; ``"embedded"`` is the one in the package.

    Raises:
        InputError: the folder has no weights, the id cannot be fetched, or the model is of another kind.
    """
    folder = str(weights.audio_encoder_folder()) if source == EMBEDDED else source
    _check_folder(folder, "the audio encoder")
    try:
        model_type = AutoConfig.from_pretrained(folder).model_type
        classes = dict.fromkeys(_CLAP_TYPES, ClapAudioModelWithProjection) | {"whisper": WhisperModel}
        if model_type not in classes:
            raise InputError(folder, "a CLAP or Whisper model", model_type, "choose another --audio-encoder")
        model = classes[model_type].from_pretrained(folder, dtype=dtype, use_safetensors=True)
        extractor = AutoFeatureExtractor.from_pretrained(folder)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(
            folder,
            "an audio encoder with safetensors weights and a feature extractor",
            str(error).strip().splitlines()[0],
            "name a local folder with --audio-encoder, or a hub id that this machine can fetch",
        ) from error
    return AudioEncoder(model, extractor, source).to(device)
