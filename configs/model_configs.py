"""The named pairs of a base and its audio encoders, with the size of the parts that are trained between them.

Hidden sizes of the base and the encoders are read from their own configurations, never written here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from safe_train.configs.lookup import look_up

EMBEDDED = "embedded"

CACHE_PREFIX = "cache:"
"""Begins the name of a folder under ``$SAFE_CACHE``, which a recipe of this project makes on each machine."""

_LAYERS_PER_FUSION = 8


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A base, its audio encoders, and the projector and fusion between them.

    Attributes:
        name: the registered name.
        description: one sentence for people.
        base_model: vision-language model: hub id, local folder, ``"embedded"``, or ``cache:`` and a folder of the
            cache.
        audio_encoders: the same for each audio encoder; their features are projected separately and concatenated.
        num_audio_tokens: audio tokens that the projector makes from a clip, for each encoder.
        projector_hidden: width of the projector's hidden layer.
        fusion_layers: number of decoder layers with gated cross-attention, or ``"auto"``: one in eight, at least two.
        fusion_dim: width of the queries, keys and values of the cross-attention, over all heads.
        defaults: dotted settings that replace the general defaults with this pair, unless they are given.
        made_by: the command that makes the folders of the cache.

    Raises:
        ValueError: no audio encoder, or a count below 1.
    """

    name: str
    description: str
    base_model: str
    audio_encoders: tuple[str, ...]
    num_audio_tokens: int = 8
    projector_hidden: int
    fusion_layers: int | Literal["auto"] = "auto"
    fusion_dim: int
    defaults: Mapping[str, Any] = field(default_factory=dict)
    made_by: str = ""

    def __post_init__(self) -> None:
        """Rejects a configuration without hearing or with empty parts."""
        if not self.audio_encoders:
            raise ValueError(f"{self.name}: audio_encoders must name at least one encoder, got none")
        for size in ("num_audio_tokens", "projector_hidden", "fusion_dim", "fusion_layers"):
            value = getattr(self, size)
            if value != "auto" and value < 1:
                raise ValueError(f"{self.name}: {size} must be at least 1, got {value}")

    def num_fusion_layers(self, num_decoder_layers: int) -> int:
        """How many of the base's decoder layers carry a fusion.

        Raises:
            ValueError: the configuration asks for more layers than the decoder has.
        """
        if self.fusion_layers == "auto":
            return min(num_decoder_layers, max(2, num_decoder_layers // _LAYERS_PER_FUSION))
        if self.fusion_layers > num_decoder_layers:
            raise ValueError(
                f"{self.name}: fusion_layers must be at most the decoder's {num_decoder_layers} layers, "
                f"got {self.fusion_layers}"
            )
        return self.fusion_layers


DEMO = ModelConfig(
    name="demo",
    description="The embedded base and audio encoder: offline, on any CPU.",
    base_model=EMBEDDED,
    audio_encoders=(EMBEDDED,),
    projector_hidden=128,
    fusion_layers=2,
    fusion_dim=128,
)

FULL = ModelConfig(
    name="full",
    description="LLaVA-1.5-13B with CLAP.",
    base_model="llava-hf/llava-1.5-13b-hf",
    audio_encoders=("laion/clap-htsat-unfused",),
    projector_hidden=2048,
    fusion_dim=1024,
)

MULTIMODAL = ModelConfig(
    name="multimodal",
    description="LLaVA-1.5-13B with CLAP for sounds and Whisper for speech.",
    base_model="llava-hf/llava-1.5-13b-hf",
    audio_encoders=("laion/clap-htsat-unfused", "openai/whisper-small"),
    projector_hidden=2048,
    fusion_dim=1024,
)

REAL = ModelConfig(
    name="real",
    description="SmolLM2-135M-Instruct with EfficientNet-lite0, and Whisper tiny.en, from package registries.",
    base_model=f"{CACHE_PREFIX}real/base",
    audio_encoders=(f"{CACHE_PREFIX}real/audio_encoder",),
    projector_hidden=512,
    fusion_dim=256,
    defaults=MappingProxyType(
        {
            "precision": "bf16",
            "data.root": f"{CACHE_PREFIX}real/data",
            "data.train_audio_source": "avqa",
            "data.val_audio_source": "avqa",
            "data.cache_root": "auto",
            "data.length_buckets": True,
            "evaluation.batch_size": 25,
            "model.attention": "eager",  # on a CPU, half of the time of a step
            "model.audio_seconds": 5.0,
        }
    ),
    made_by="make real",
)


def sizes_for(hidden_size: int, num_decoder_layers: int) -> dict[str, int]:
    """Sizes of the trained parts for a base that no configuration is named for, as settings of ``model``.

    The cross-attention is a quarter as wide as the base, in steps of 64, from 128 to 1024, and the projector's hidden
    layer twice that; one decoder layer in eight has a fusion. For LLaVA-1.5-13B these are the sizes of ``full``.
    """
    fusion_dim = min(1024, max(128, -(-hidden_size // 256) * 64))
    return {
        "projector_hidden": 2 * fusion_dim,
        "fusion_layers": FULL.num_fusion_layers(num_decoder_layers),
        "fusion_dim": fusion_dim,
    }


MODEL_CONFIGS: Mapping[str, ModelConfig] = MappingProxyType(
    {config.name: config for config in (DEMO, FULL, MULTIMODAL, REAL)}
)


def get_model_config(name: str) -> ModelConfig:
    """The model configuration of that name.

    Raises:
        ValueError: the name is not registered; the message lists the known names and the nearest.
    """
    return look_up("model configuration", name, MODEL_CONFIGS)
