"""What a configuration stands for: the loaded models and the rows, the same for every variant of a seed."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from configs.model_configs import get_model_config
from safe_train.config import ModelSettings, StageAConfig
from safe_train.data.batch import FeatureCache, RowEncoder
from safe_train.data.rows import ProtectedAudio, Row, RowStream
from safe_train.data.sources import read_audio_rows, read_vl_rows, split_pack_questions
from safe_train.errors import InputError
from safe_train.model import AdapterConfig, Base, SafeModel, load_audio_encoder, load_base

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Rows:
    """Training and validation rows.

    Attributes:
        train_audio: audio rows to train on.
        train_vl: VL rows that are protected.
        val_audio: audio rows to evaluate on.
        val_vl: VL rows to evaluate on.
        indices: for each of the four, the indices drawn from its split.
    """

    train_audio: list[Row]
    train_vl: list[Row]
    val_audio: list[Row]
    val_vl: list[Row]
    indices: dict[str, list[int]]


def load_rows(config: StageAConfig) -> Rows:
    """Reads the four sources and draws the subsets of the seed.

    Raises:
        InputError: a file is missing or malformed, or a VL row has no answer.
    """
    data, seed, limits = config.data, config.seed, config.evaluation
    train_audio = read_audio_rows(data.train_audio_source, data, data.train_split).draw(data.max_train_audio, seed)
    if data.val_audio_source == "trained":
        val_audio = train_audio
    else:
        val_audio = read_audio_rows(data.val_audio_source, data, data.val_split)
    if data.train_vl_source == data.val_vl_source == "pack":
        train_vl, val_vl = split_pack_questions(data)
    else:
        train_vl = read_vl_rows(data.train_vl_source, data, data.train_split)
        val_vl = read_vl_rows(data.val_vl_source, data, data.val_split)
    drawn = {
        "train_audio": train_audio,
        "train_vl": train_vl.draw(data.max_train_vl, seed),
        "val_audio": val_audio.draw(limits.max_audio, seed),
        "val_vl": val_vl.draw(limits.max_vl, seed),
    }
    return Rows(
        **{part: subset.rows for part, subset in drawn.items()},
        indices={part: subset.indices for part, subset in drawn.items()},
    )


def resolve_device(name: str) -> torch.device:
    """The device that a configuration names.

    Raises:
        InputError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise InputError("device", "auto, cpu, cuda or cuda:N", repr(name), "choose one of them")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise InputError("device", f"a CUDA device that exists ({count} here)", repr(name), "choose --device cpu")
    return device


def load_base_model(config: StageAConfig) -> Base:
    """The frozen base, before anything is attached to it."""
    source = config.model.base_model or get_model_config(config.model.config).base_model
    return load_base(source, dtype=_DTYPES[config.precision], device=resolve_device(config.device))


def attach(base: Base, config: StageAConfig) -> SafeModel:
    """SAFE on the base: encoders loaded, projectors and fusions initialized by the seed."""
    registered = get_model_config(config.model.config)
    sources = config.model.audio_encoders or registered.audio_encoders
    device = resolve_device(config.device)
    encoders = [load_audio_encoder(source, dtype=_DTYPES[config.precision], device=device) for source in sources]
    return SafeModel(base, encoders, adapter_config(config.model, len(base.decoder_layers), config.seed))


def adapter_config(settings: ModelSettings, num_decoder_layers: int, seed: int) -> AdapterConfig:
    """Sizes of the trained parts: the settings, and where they are None the registered configuration."""
    registered = get_model_config(settings.config)
    count = settings.fusion_layers or registered.fusion_layers
    if count == "auto":
        count = registered.num_fusion_layers(num_decoder_layers)
    if count > num_decoder_layers:
        raise InputError("model.fusion_layers", f"at most {num_decoder_layers} decoder layers", str(count), "lower it")
    fusion_dim = settings.fusion_dim or registered.fusion_dim
    if fusion_dim % settings.fusion_heads:
        got = f"{settings.fusion_heads}"
        raise InputError("model.fusion_heads", f"a divisor of the fusion's width {fusion_dim}", got, "choose another")
    return AdapterConfig(
        num_audio_tokens=settings.num_audio_tokens or registered.num_audio_tokens,
        projector_hidden=settings.projector_hidden or registered.projector_hidden,
        fusion_layers=spread_layers(count, num_decoder_layers),
        fusion_dim=fusion_dim,
        fusion_heads=settings.fusion_heads,
        lora_rank=settings.lora_rank,
        init_seed=seed,
    )


def spread_layers(count: int, num_decoder_layers: int) -> tuple[int, ...]:
    """``count`` layer indices spread evenly; the last decoder layer comes in only when all are asked for."""
    usable = num_decoder_layers if count >= num_decoder_layers else num_decoder_layers - 1
    return tuple(round((k + 1) * usable / count) - 1 for k in range(count))


def row_encoder(model: SafeModel, num_workers: int = 0) -> RowEncoder:
    """Encodes rows for this model, decoding files in so many threads."""
    encoders = [encoder for encoder in model.encoders]
    features = FeatureCache(encoders, num_workers)  # type: ignore[arg-type]
    return RowEncoder(model.base.processor, features, model.base.model.device, num_workers)


def row_stream(rows: Rows, config: StageAConfig) -> RowStream:
    """The training batches of the seed."""
    return RowStream(
        rows.train_audio,
        rows.train_vl,
        seed=config.seed,
        image_share=config.data.image_share,
        protected_audio=ProtectedAudio(config.data.silence_share, config.data.loud_share, config.data.noise_share),
        shuffle_audio=config.data.shuffle_audio,
    )
