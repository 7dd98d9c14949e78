"""SAFE on the meta device: every shape is there and no weight, so that a step can be run through without the memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForImageTextToText, AutoProcessor

from safe_train.audio.input import AudioInput
from safe_train.configs.model_configs import EMBEDDED
from safe_train.data.cache.features import NOT_PREPARED, FeatureCache, PreparedClips
from safe_train.data.example import Example
from safe_train.embedded import weights
from safe_train.model.audio.encoder import AudioEncoder, AudioFeatures, audio_model_class
from safe_train.model.base import Base
from safe_train.model.batch import Batch
from safe_train.model.folders import as_input_error, check_folder, read_model_config
from safe_train.model.retention_model import SafeRetentionModel
from safe_train.training.batches import StepBatches
from safe_train.training.failed_step import RETENTION, TASK

META = torch.device("meta")
_HINT = "name a local folder, or a hub id that this machine can fetch"


class MetaBase(Base):
    """A base without weights.

    The image is put into the embeddings as a tensor of the right shape, since finding its place takes values; and the
    mask is given to the decoder in full, since whether one is needed takes values, too. A vision tower that takes more
    than pixels, such as the sizes of images, depends on values as well: its cost is estimated.
    """

    def last_hidden_state(self, **inputs: Tensor) -> Tensor:
        """Hidden states [B, T, H] on the meta device."""
        ids = inputs["input_ids"]
        embeddings = self.model.get_input_embeddings()(ids)
        if "pixel_values" in inputs:
            if vision_takes_values(inputs):
                self._count_vision(inputs["pixel_values"])
            else:
                embeddings = embeddings.masked_scatter(ids[..., None] == 0, self._image_features(inputs))
        mask = torch.ones((ids.shape[0], 1, ids.shape[1], ids.shape[1]), dtype=torch.bool, device=META)
        return self.model.get_decoder()(inputs_embeds=embeddings, attention_mask=mask, use_cache=False)[0]

    def _image_features(self, inputs: dict[str, Tensor]) -> Tensor:
        """What the vision tower and its projector give for the pixels."""
        found = self.model.base_model.get_image_features(pixel_values=inputs["pixel_values"], return_dict=True)
        features = found.pooler_output
        return torch.cat(list(features)) if isinstance(features, list | tuple) else features

    def _count_vision(self, pixels: Tensor) -> None:
        """A product of as many operations as the vision tower has parameters times patches; it holds nothing."""
        layers, modules = set(self.model.get_decoder().parameters()), self.model.base_model.modules()
        parameters = sum(p.numel() for p in self.model.base_model.parameters() if p not in layers)
        patch = next(m for m in modules if isinstance(m, nn.Conv2d | nn.Conv3d)).weight[0].numel()
        one = torch.zeros(1, 1, device=META)
        length = parameters * (pixels.numel() // patch)
        torch.mm(one.expand(1, length), one.expand(length, 1))


def vision_takes_values(inputs: Iterable[str]) -> bool:
    """Whether the inputs of these names hold more about an image than its pixels."""
    return bool(set(inputs) - {"input_ids", "attention_mask", "pixel_values", "token_type_ids", "mm_token_type_ids"})


def meta_base(source: str, dtype: torch.dtype) -> MetaBase:
    """A base from its configuration and processor alone; weights need not be there.

    Raises:
        InputError: there is no configuration or no processor.
    """
    folder = str(weights.base_folder()) if source == EMBEDDED else source
    check_folder(folder, "the vision-language model", with_weights=False)
    with as_input_error(folder, "the configuration and processor of an image-text-to-text model", _HINT):
        config = read_model_config(folder)
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
        with META:
            model: Any = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    return MetaBase(model.requires_grad_(False).eval(), processor, source)


def meta_audio_encoder(source: str, dtype: torch.dtype, **options: Any) -> AudioEncoder:
    """An audio encoder from its configuration and feature extractor alone.

    It is first made with weights that mean nothing, since what features it gives is found by encoding silence.

    Raises:
        InputError: there is no configuration or no feature extractor.
    """
    folder = str(weights.audio_encoder_folder()) if source == EMBEDDED else source
    check_folder(folder, "the audio encoder", with_weights=False)
    with as_input_error(folder, "the configuration and feature extractor of an audio encoder", _HINT):
        extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False)
        model_class, config = audio_model_class(read_model_config(folder))
        build: Any = model_class.from_config if model_class is AutoModel else model_class._from_config
        encoder = AudioEncoder(build(config), extractor, source, **options)
    nn.Module.to(encoder, META, dtype)
    return encoder


class FeatureShapes(FeatureCache):
    """Features of the right shape for any clip; no clip is read."""

    def __init__(self, encoders: Sequence[AudioEncoder]) -> None:
        super().__init__(encoders)

    def get(
        self, clips: Sequence[AudioInput | None], prepared: PreparedClips = NOT_PREPARED
    ) -> tuple[AudioFeatures, ...]:
        """Zeros [B, F, D] for each encoder, all of them heard."""
        return tuple(
            AudioFeatures(
                torch.zeros(len(clips), encoder.num_features, encoder.feature_size),
                torch.ones(len(clips), encoder.num_features, dtype=torch.bool),
            )
            for encoder in self.encoders
        )


class MetaBatches(StepBatches):
    """The batches of a training, encoded as ever and then stripped of their values.

    Attributes:
        encoded: of each batch so far its kind, its positions, and how many of them are no padding.
        encoding_seconds: time that the encoding has taken so far.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Takes what ``StepBatches`` takes."""
        super().__init__(*arguments, **options)
        self.encoded: list[tuple[str, int, int]] = []
        self.encoding_seconds = 0.0

    def encode_task(self, examples: Sequence[Example]) -> Batch:
        """A batch on the meta device."""
        return self._strip(TASK, super().encode_task, examples)

    def encode_retention(self, examples: Sequence[Example]) -> Batch:
        """A batch on the meta device."""
        return self._strip(RETENTION, super().encode_retention, examples)

    def retention_batch(self) -> Batch:
        """A micro-batch of retention examples, as a calibration gets it."""
        return next(self.for_calibration(0, 1))

    def _strip(self, kind: str, encode: Callable[[Sequence[Example]], Batch], examples: Sequence[Example]) -> Batch:
        start = time.perf_counter()
        batch = encode(examples)
        self.encoding_seconds += time.perf_counter() - start
        mask = batch.inputs["attention_mask"]
        self.encoded.append((kind, mask.numel(), int(mask.sum())))
        features = None if batch.features is None else tuple(part.to(META) for part in batch.features)
        columns = (batch.token_rows.to(META), batch.token_positions.to(META), batch.labels.to(META))
        return Batch({name: value.to(META) for name, value in batch.inputs.items()}, features, *columns)


class KeptTeacher(SafeRetentionModel):
    """A teacher whose states are all in the cache."""

    def teacher(self, batch: Batch) -> Tensor:
        """States of the right shape."""
        weight = self.head.weight
        return torch.zeros(len(batch.labels), weight.shape[1], dtype=weight.dtype, device=META)
