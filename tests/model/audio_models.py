"""Tiny random audio models of real classes, with their real feature extractors, saved to a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTModel,
    HubertConfig,
    HubertModel,
    PreTrainedModel,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from safe_train.embedded.models import build_audio_encoder, build_feature_extractor

_SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
_CONVOLUTIONS = {
    "conv_dim": [16] * 7, "conv_kernel": [10, 3, 3, 3, 3, 2, 2], "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "num_feat_extract_layers": 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip


@dataclass(frozen=True)
class AudioModel:
    """A class that people use as an audio encoder.

    Attributes:
        name: as its makers write it.
        build: gives the model and its extractor.
        features: ``pooled`` or ``grid``.
        per_second: features a second, or None for one a clip.
        window: seconds that are heard.
    """

    name: str
    build: Callable[[], tuple[PreTrainedModel, Any]]
    features: str
    per_second: float | None
    window: float = 30.0

    def save(self, folder: Path) -> Path:
        """Writes the model and its extractor."""
        torch.manual_seed(0)
        model, extractor = self.build()
        model.save_pretrained(folder)
        extractor.save_pretrained(folder)
        return folder


def _clap() -> tuple[PreTrainedModel, Any]:
    return build_audio_encoder(), build_feature_extractor()


def _whisper() -> tuple[PreTrainedModel, Any]:
    config = WhisperConfig(
        vocab_size=50, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, num_mel_bins=16, max_source_positions=200,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=3,
    )  # fmt: skip
    return WhisperModel(config), WhisperFeatureExtractor(feature_size=16, chunk_length=4)


def _wav2vec2() -> tuple[PreTrainedModel, Any]:
    """Of the base size's kind: normalizes over the whole clip, trained without an attention mask."""
    config = Wav2Vec2Config(**_SIZES, **_CONVOLUTIONS, feat_extract_norm="group")
    return Wav2Vec2Model(config), Wav2Vec2FeatureExtractor(return_attention_mask=False)


def _wav2vec2_large() -> tuple[PreTrainedModel, Any]:
    """Of the large size's kind: normalizes each frame, trained with an attention mask."""
    config = Wav2Vec2Config(**_SIZES, **_CONVOLUTIONS, feat_extract_norm="layer", do_stable_layer_norm=True)
    return Wav2Vec2Model(config), Wav2Vec2FeatureExtractor(return_attention_mask=True)


def _hubert() -> tuple[PreTrainedModel, Any]:
    return HubertModel(HubertConfig(**_SIZES, **_CONVOLUTIONS)), Wav2Vec2FeatureExtractor(return_attention_mask=False)


def _wavlm() -> tuple[PreTrainedModel, Any]:
    return WavLMModel(WavLMConfig(**_SIZES, **_CONVOLUTIONS)), Wav2Vec2FeatureExtractor(return_attention_mask=True)


def _wav2vec2_bert() -> tuple[PreTrainedModel, Any]:
    config = Wav2Vec2BertConfig(**_SIZES, feature_projection_input_dim=32, conv_depthwise_kernel_size=5)
    return Wav2Vec2BertModel(config), SeamlessM4TFeatureExtractor(feature_size=16, num_mel_bins=16)


def _ast() -> tuple[PreTrainedModel, Any]:
    config = ASTConfig(**_SIZES, patch_size=8, frequency_stride=8, time_stride=8, max_length=200, num_mel_bins=16)
    return ASTModel(config), ASTFeatureExtractor(num_mel_bins=16, max_length=200)


AUDIO_MODELS: dict[str, AudioModel] = {
    "clap pooled": AudioModel("CLAP, embedding", _clap, "pooled", None, 2.0),
    # Two seconds as 64 x 64 values, patches of 4, halved once: 16 moments of 4 bands.
    "clap grid": AudioModel("CLAP, grid", _clap, "grid", 16 * 4 / 2.0, 2.0),
    "whisper": AudioModel("Whisper", _whisper, "grid", 50.0, 4.0),
    "whisper pooled": AudioModel("Whisper, mean", _whisper, "pooled", None, 4.0),
    "wav2vec2": AudioModel("wav2vec 2.0 base", _wav2vec2, "grid", 50.0),
    "wav2vec2 large": AudioModel("wav2vec 2.0 large", _wav2vec2_large, "grid", 50.0),
    "hubert": AudioModel("HuBERT", _hubert, "grid", 50.0),
    "wavlm": AudioModel("WavLM", _wavlm, "grid", 50.0),
    "wav2vec2-bert": AudioModel("Wav2Vec2-BERT", _wav2vec2_bert, "grid", 50.0),
    # Frames of 10 ms, two bands of eight mel bins, patches of eight frames.
    "ast": AudioModel("AST", _ast, "grid", 2 * 100 / 8, 2.0),
}
