"""Builds models, examples and sampler from a configuration; they are the same for every variant of a seed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from safe_train.config import StageAConfig
from safe_train.configs.model_configs import get_model_config
from safe_train.data.cache.features import FeatureCache
from safe_train.data.cache.teacher_states import TeacherCache
from safe_train.data.cache.tensor_store import TensorFolder, TensorStore
from safe_train.data.collator import Collator
from safe_train.data.datasets.registry import ExampleKind
from safe_train.data.example import Example
from safe_train.data.sampler import ExampleSampler, RetentionAudio, Subset
from safe_train.data.settings import TRAINED_SOURCE, DataSettings, WeightedSource
from safe_train.data.sources import (
    TrainingExamples,
    find_text_source,
    read_audio_examples,
    read_mixture,
    read_text_splits,
    read_vl_splits,
)
from safe_train.distributed.processes import ALONE, Processes
from safe_train.errors import InputError
from safe_train.io.cache import cache_root
from safe_train.model.audio.encoder import AudioEncoder, load_audio_encoder
from safe_train.model.base import Base
from safe_train.model.loading import load_base
from safe_train.model.safe_model import AdapterConfig, SafeModel
from safe_train.model.settings import ModelSettings
from safe_train.model.sources import base_source, encoder_sources
from safe_train.training.batches import StepBatches

logger = logging.getLogger(__name__)

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Rows:
    """Training and validation examples.

    Attributes:
        train_audio: audio examples to train on.
        train_vl: VL examples for retention.
        train_text: text-only examples for retention; questions and documents.
        val_audio: audio examples to evaluate on.
        val_vl: VL examples to evaluate on.
        val_text: text-only examples to evaluate on.
        indices: for each of the six, the indices drawn from its split.
        mixtures: of the kinds to train on that have several sources, each source's examples and weight.
    """

    train_audio: list[Example]
    train_vl: list[Example]
    val_audio: list[Example]
    val_vl: list[Example]
    indices: dict[str, list[int]]
    train_text: list[Example] = field(default_factory=list)
    val_text: list[Example] = field(default_factory=list)
    mixtures: dict[ExampleKind, tuple[tuple[int, float], ...]] = field(default_factory=dict)


def load_examples(config: StageAConfig) -> Rows:
    """Reads the six sources and draws the subsets of the seed.

    Where no text-only examples are found for training or for evaluation, and the settings do not say that there are to
    be none, that is logged in one warning.

    Raises:
        InputError: a file is missing or malformed, or a VL example has no answer.
    """
    data, seed, limits = config.data, config.seed, config.evaluation
    mixed = _read_mixtures(data, seed)
    train_vl, val_vl = read_vl_splits(data)
    train_text, val_text = _text_subsets(data)
    drawn = {
        "train_vl": train_vl.draw(data.max_train_vl, seed),
        "val_vl": val_vl.draw(limits.max_vl, seed),
        "train_text": train_text.draw(data.max_train_text, seed),
        "val_text": val_text.draw(limits.max_text, seed),
    } | {f"train_{kind}": examples.subset for kind, examples in mixed.items()}
    if "audio" not in mixed:
        audio = read_audio_examples(data.train_audio_source, data, data.train_split)
        drawn["train_audio"] = audio.draw(data.max_train_audio, seed)
    if data.val_audio_source == TRAINED_SOURCE:
        val_audio = drawn["train_audio"]
    else:
        val_audio = read_audio_examples(data.val_audio_source, data, data.val_split)
    drawn["val_audio"] = val_audio.draw(limits.max_audio, seed)
    return Rows(
        **{part: subset.rows for part, subset in drawn.items()},
        indices={part: subset.indices for part, subset in drawn.items()},
        mixtures={kind: examples.parts for kind, examples in mixed.items()},
    )


def _read_mixtures(data: DataSettings, seed: int) -> dict[ExampleKind, TrainingExamples]:
    """The kinds of examples to train on that come from several sources."""
    asked: dict[ExampleKind, tuple[tuple[WeightedSource, ...], int | None]] = {
        "audio": (data.train_audio_mixture, data.max_train_audio),
        "vl": (data.train_vl_mixture, data.max_train_vl),
        "text": (data.train_text_mixture, data.max_train_text),
    }
    return {kind: read_mixture(kind, sources, data, limit, seed) for kind, (sources, limit) in asked.items() if sources}


def _text_subsets(data: DataSettings) -> tuple[Subset, Subset]:
    """All text-only examples to protect and to evaluate on."""
    train = "none" if data.train_text_mixture else find_text_source(data.train_text_source, data.train_vl_source, data)
    val = find_text_source(data.val_text_source, data.val_vl_source, data)
    lacking = [
        name
        for name, asked, found in (
            ("protected", "mixture" if data.train_text_mixture else data.train_text_source, train),
            ("measured", data.val_text_source, val),
        )
        if asked == "auto" and found == "none"
    ]
    if lacking:
        logger.warning(
            "no text-only examples: answers to questions without an image are %s; put questions or documents into "
            "text/%s.jsonl and text/%s.jsonl of the data root, or set data.train_text_source and data.val_text_source",
            "neither protected nor measured" if len(lacking) == 2 else f"not {lacking[0]}",
            data.train_split,
            data.val_vl_split or data.val_split,
        )
    return read_text_splits(train, val, data)


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


def precision_dtype(config: StageAConfig) -> torch.dtype:
    """Dtype of the frozen base and encoders."""
    return _DTYPES[config.precision]


def load_base_model(config: StageAConfig, device: torch.device | None = None) -> Base:
    """The frozen base, before anything is attached to it; on the configuration's device if none is given."""
    settings = config.model
    return load_base(
        base_source(settings),
        dtype=_DTYPES[config.precision],
        device=device or resolve_device(config.device),
        attention=settings.attention,
        quantization=settings.quantization,
    )


def attach(base: Base, config: StageAConfig, encoders: Sequence[AudioEncoder] | None = None) -> SafeModel:
    """SAFE on the base: encoders loaded, unless they are given, projectors and fusions initialized by the seed."""
    shape = adapter_config(config.model, len(base.decoder_layers), config.seed)
    model = SafeModel(base, encoders or load_audio_encoders(config), shape)
    if config.model.gradient_checkpointing:
        model.checkpoint_gradients()
    return model


def load_audio_encoders(config: StageAConfig, load: Callable[..., AudioEncoder] | None = None) -> list[AudioEncoder]:
    """The frozen audio encoders, each with its kind of features.

    Args:
        config: names them.
        load: loads one; by default with its weights, to the configuration's device.

    Raises:
        InputError: the configuration names another number of encoders than of kinds of features.
    """
    settings = config.model
    sources = encoder_sources(settings)
    kinds = settings.audio_features or (None,) * len(sources)
    if len(kinds) != len(sources):
        expected, got = f"one for each of {len(sources)} audio encoders", str(len(kinds))
        raise InputError("model.audio_features", expected, got, "name pooled or grid once for each")
    load = load or partial(load_audio_encoder, device=resolve_device(config.device))
    return [
        load(
            source,
            dtype=precision_dtype(config),
            features=kind,
            seconds=settings.audio_seconds,
            windows=settings.audio_windows,
            level_db=settings.audio_level_db,
        )
        for source, kind in zip(sources, kinds, strict=True)
    ]


def adapter_config(settings: ModelSettings, num_decoder_layers: int, seed: int) -> AdapterConfig:
    """Sizes of the trained parts: the settings, and where they are None the registered configuration."""
    registered = get_model_config(settings.config)
    fusion_dim = settings.fusion_dim or registered.fusion_dim
    if fusion_dim % settings.fusion_heads:
        got = f"{settings.fusion_heads}"
        raise InputError("model.fusion_heads", f"a divisor of the fusion's width {fusion_dim}", got, "choose another")
    return AdapterConfig(
        num_audio_tokens=settings.num_audio_tokens or registered.num_audio_tokens,
        projector_hidden=settings.projector_hidden or registered.projector_hidden,
        fusion_layers=_fused_layers(settings, num_decoder_layers),
        fusion_dim=fusion_dim,
        fusion_heads=settings.fusion_heads,
        lora_rank=settings.lora_rank,
        init_seed=seed,
        projector_layers=settings.projector_layers,
    )


def _fused_layers(settings: ModelSettings, num_decoder_layers: int) -> tuple[int, ...]:
    """Those that are named, or so many as the settings or the registered configuration say."""
    if (indices := settings.fusion_layer_indices) is not None:
        if indices[-1] >= num_decoder_layers:
            expected = f"indices below the base's {num_decoder_layers} decoder layers"
            raise InputError("model.fusion_layer_indices", expected, str(indices[-1]), "they count from 0")
        return indices
    registered = get_model_config(settings.config)
    count = settings.fusion_layers or registered.fusion_layers
    if count == "auto":
        count = registered.num_fusion_layers(num_decoder_layers)
    if count > num_decoder_layers:
        raise InputError("model.fusion_layers", f"at most {num_decoder_layers} decoder layers", str(count), "lower it")
    return spread_layers(count, num_decoder_layers)


def spread_layers(count: int, num_decoder_layers: int) -> tuple[int, ...]:
    """``count`` layer indices spread evenly; the last decoder layer is included only if all are requested."""
    usable = num_decoder_layers if count >= num_decoder_layers else num_decoder_layers - 1
    return tuple(round((k + 1) * usable / count) - 1 for k in range(count))


def build_collator(model: SafeModel, data: DataSettings | None = None) -> Collator:
    """Builds the collator of this model, which decodes files in threads and caches features as the settings say."""
    data = data or DataSettings()
    encoders = [encoder for encoder in model.encoders]
    features = FeatureCache(encoders, data.num_workers, tensor_store(data, "features"))  # type: ignore[arg-type]
    return Collator(
        model.base.processor,
        features,
        model.base.model.device,
        data.num_workers,
        dtype=model.base.model.dtype,
        document_tokens=data.document_tokens,
        max_positions=getattr(model.base.model.config.get_text_config(), "max_position_embeddings", None),
    )


def teacher_cache(model: SafeModel, encoder: Collator, config: StageAConfig) -> TeacherCache | None:
    """The cache of the teacher's states, or None if it is off."""
    if not config.retention.teacher_cache:
        return None
    return TeacherCache(model, encoder, tensor_store(config.data, "teacher-states"))


def tensor_store(data: DataSettings, kind: str) -> TensorStore:
    """A store in memory of the configured size and, if a cache root is set, in its folder of this kind."""
    root = cache_root() if data.cache_root == "auto" else data.cache_root
    folder = TensorFolder(Path(root).expanduser() / kind) if root is not None else None
    return TensorStore(int(data.cache_gib * 2**30), folder)


def build_sampler(rows: Rows, config: StageAConfig) -> ExampleSampler:
    """The training batches of the seed."""
    return ExampleSampler(
        rows.train_audio,
        rows.train_vl,
        rows.train_text,
        seed=config.seed,
        image_prob=config.data.image_prob,
        text_ratio=config.data.text_ratio,
        retention_audio=RetentionAudio(config.data.silence_prob, config.data.loud_prob, config.data.noise_prob),
        gains_db=config.data.gains_db,
        shuffle_audio=config.data.shuffle_audio,
        mixtures=rows.mixtures,
        draw_captions=config.data.caption_reference == "drawn",
    )


def build_batches(config: StageAConfig, model: SafeModel, rows: Rows, processes: Processes = ALONE) -> StepBatches:
    """The batches of every step: examples drawn by the seed, encoded for this model."""
    return StepBatches(config, build_collator(model, config.data), build_sampler(rows, config), processes)
