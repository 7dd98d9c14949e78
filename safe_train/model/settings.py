"""Settings of base, audio encoders and trained parts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from safe_train.settings import Section

MOST_WINDOWS = 1000
"""Of one clip."""


class ModelSettings(Section):
    """Base, audio encoders and the size of the trained parts; what is None comes from the model configuration.

    Where another base than the embedded one is named and no model configuration, the sizes follow from the base.
    """

    config: str = "demo"
    """Name of a model configuration."""
    base_model: str | None = None
    """Hub id or local folder of the base."""
    audio_encoders: tuple[str, ...] | None = None
    """Hub ids or local folders of the audio encoders."""
    audio_features: tuple[Literal["pooled", "grid"], ...] | None = None
    """For each audio encoder, one feature per clip, or one per stretch of time; None for what suits the model."""
    audio_seconds: float = Field(default=30.0, gt=0.0)
    """Seconds of a clip that are heard, from its start; less where the audio encoder's own windows are shorter."""
    audio_windows: int = Field(default=1, ge=1, le=MOST_WINDOWS)
    """How many of its own windows (10 s of CLAP, 30 s of Whisper) an encoder hears at most, one behind the other; a
    token knows its window. ``audio_seconds`` limits them all."""
    audio_level_db: float | None = -20.0
    """Level (root mean square, dB of full scale) that a clip is scaled to before it is encoded; None leaves clips
    as they are."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """Attention of the base; ``auto`` is the fastest that transformers finds without further packages."""
    quantization: Literal["none", "4bit", "8bit"] = "none"
    """Weights of the frozen base in fewer bits, by the extra ``bitsandbytes``, on a GPU."""
    gradient_checkpointing: bool = False
    """Compute the decoder's inner activations again in each backward pass: less memory, more time, the same result."""
    num_audio_tokens: int | None = Field(default=None, ge=1)
    """Audio tokens per clip."""
    projector_hidden: int | None = Field(default=None, ge=1)
    """Width of the projector's hidden layers; below the encoder's width it is a bottleneck."""
    projector_layers: int = Field(default=2, ge=2)
    """Linear layers of the projector, with a GELU between any two."""
    fusion_layers: int | None = Field(default=None, ge=1)
    """Number of decoder layers with a fusion, spread evenly up to the last but one."""
    fusion_layer_indices: tuple[int, ...] | None = None
    """Which decoder layers have a fusion behind them, counted from 0 and rising, in place of ``fusion_layers``."""
    fusion_dim: int | None = Field(default=None, ge=1)
    """Width of the cross-attention."""
    fusion_heads: int = Field(default=4, ge=1)
    """Heads of the cross-attention."""
    lora_rank: int = Field(default=0, ge=0)
    """Rank of LoRA on the decoder's attention; 0 for none."""

    @model_validator(mode="after")
    def _fused_layers_are_given_once(self) -> ModelSettings:
        indices = self.fusion_layer_indices
        if indices is not None and self.fusion_layers is not None:
            raise ValueError("one of fusion_layers, a number, and fusion_layer_indices")
        if indices is not None and (not indices or indices[0] < 0 or list(indices) != sorted(set(indices))):
            raise ValueError("fusion_layer_indices must be layers from 0 on, rising, each once")
        return self
