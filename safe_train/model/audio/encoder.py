"""Frozen audio encoders: CLAP, Whisper, and any other audio model with a feature extractor."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoFeatureExtractor, AutoModel, ClapAudioModelWithProjection, PreTrainedModel

from safe_train.audio.waveform import HEARABLE_LENGTH, SHORTEST_SECONDS
from safe_train.configs.model_configs import EMBEDDED
from safe_train.embedded import weights
from safe_train.errors import InputError
from safe_train.model.audio.feature_readout import CLAP_TYPES, extract, own_window, read, readout_of, window_of
from safe_train.model.folders import as_input_error, check_folder, load_weights, missing_weights, read_model_config

logger = logging.getLogger(__name__)

FeatureKind = Literal["pooled", "grid"]
"""One feature a clip, or one for each stretch of time (and, in CLAP and AST, band of frequency)."""

DEFAULT_SECONDS = 30.0

AT_ONCE = 8
"""Clips that are encoded together, where that gives the bits that they have alone."""

SILENCE_RMS = 1e-5
"""Root mean square, of full scale 1, below which a clip counts as silence and is left as it is: -100 dB, less than the
rounding of 16-bit samples."""


@dataclass(frozen=True)
class AudioFeatures:
    """The features of a batch of clips from one encoder.

    Attributes:
        values: [B, F, D], float32.
        mask: bool [B, F]; False for features after the end of the clip.
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


@dataclass(frozen=True)
class EncoderInputs:
    """A clip as an encoder takes it, or the part of it in one of its windows.

    Attributes:
        tensors: what its feature extractor makes of it, each [1, ...]; none where there is no feature.
        num_samples: its length.
    """

    tensors: dict[str, Tensor]
    num_samples: int

    @property
    def shapes(self) -> tuple[tuple[str, torch.Size], ...]:
        """Those of the tensors, with their names."""
        return tuple((name, value.shape) for name, value in sorted(self.tensors.items()))


@dataclass(frozen=True)
class _Grid:
    """How an encoder's features are cut into windows.

    Attributes:
        windows: how many the encoder's own window is put behind itself; 1 of a model without one.
        per_window: features of each, of which the last window may have fewer.
    """

    windows: int
    per_window: int


class AudioEncoder(nn.Module):
    """A frozen encoder with its feature extractor.

    Attributes:
        source: the hub id or folder that it was loaded from.
        sampling_rate: Hz of the waveforms it takes.
        window: samples of a clip that are used, from its start.
        features: whether a clip gives one feature or a grid.
        num_features: F, features per clip: those that begin within the window; pooled, one for each of its parts that
            is as long as the model's own window.
        feature_size: D.
        level_db: level that each clip is scaled to before it is encoded, or None; see :func:`leveled`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        extractor: Any,
        source: str,
        *,
        features: FeatureKind | None = None,
        seconds: float = DEFAULT_SECONDS,
        windows: int = 1,
        level_db: float | None = None,
    ) -> None:
        """Finds the number and the size of the features by encoding silence.

        Args:
            model: the encoder; a decoder that it may have is not used.
            extractor: makes the model's inputs of waveforms.
            source: where both were loaded from.
            features: None for CLAP's embedding of a clip and the grid of every other model.
            seconds: upper limit of the window. A model whose extractor pads every clip to a longer window of its own
                still encodes that one; of its n moments in ``own`` seconds, the first ``ceil(n seconds / own)`` are
                kept.
            windows: how many of its own windows such a model encodes at most, one behind the other.
            level_db: level in dB of full scale that each clip is brought to; None leaves clips as loud as they are.

        Raises:
            InputError: the window is shorter than any clip may be; or the model gives the same number of features for
                clips of any length, and its extractor does not say how long the stretch is that they stand for.
        """
        super().__init__()
        self.model: Any = model.requires_grad_(False).eval()
        self.extractor = extractor
        self.source = source
        self.level_db = level_db
        self.sampling_rate: int = extractor.sampling_rate
        self.features: FeatureKind = features or ("pooled" if model.config.model_type in CLAP_TYPES else "grid")
        self._reading = readout_of(model, pooled=self.features == "pooled")
        window, own = window_of(extractor, seconds, windows), own_window(extractor)
        assert window is not None  # there is a limit
        self.window, self._fixed = window, own is not None
        if window < SHORTEST_SECONDS * self.sampling_rate:
            raise InputError("model.audio_seconds", HEARABLE_LENGTH, f"{seconds:g} s", "raise it")
        num_read, self.feature_size = self._features_of(torch.zeros(self.window if own is None else own)).shape
        whole, rest = (0, self.window) if own is None else divmod(self.window, own)
        self._grid_size = whole * num_read + int(self._begins_within(rest, num_read).sum())
        count = whole + (rest > 0)
        # Not as attributes of their own: those are part of the key that a clip's features are kept by.
        self._grid = _Grid(count, self._grid_size if count == 1 else num_read)
        if not self._fixed and len(self._features_of(torch.zeros(self.window // 2))) == self._grid_size:
            hint = "choose an encoder whose features grow with the clip"
            raise InputError(source, "a feature extractor with n_samples", type(extractor).__name__, hint)
        self.num_features = count if self.features == "pooled" else self._grid_size
        self._same_together: dict[tuple[tuple[str, torch.Size], ...], bool] = {}

    def forward(self, waveforms: Sequence[Tensor]) -> AudioFeatures:
        """Encodes float32 mono waveforms [samples] at ``sampling_rate``.

        Clips that are longer than ``window`` are cropped to its start, never at random, so that the features
        of a clip are always the same. A clip without samples has no feature that is not masked.
        """
        return self.encode([self.prepare(waveform) for waveform in waveforms])

    @property
    def num_windows(self) -> int:
        """How many of the model's own windows a clip is heard in; 1 of a model that has none."""
        return self._grid.windows

    @property
    def features_per_window(self) -> int:
        """Features of each window that a clip is cut into; F if there is one."""
        return 1 if self.features == "pooled" else self._grid.per_window

    def prepare(self, waveform: Tensor) -> list[EncoderInputs]:
        """What the model takes for a float32 mono waveform [samples], window by window.

        It is computed on the CPU, without the model.
        """
        clip = waveform[: self.window]
        if self.level_db is not None:
            clip = leveled(clip, self.level_db)
        parts = [clip] if self._grid.windows == 1 else clip.split(own_window(self.extractor) or len(clip))
        return [EncoderInputs(extract(self.extractor, part), len(part)) for part in parts]

    @torch.no_grad()
    def encode(self, clips: Sequence[Sequence[EncoderInputs]]) -> AudioFeatures:
        """The features of clips, given window by window, which have the bits that each has alone.

        Clips are never padded to a common length: models without a mask would hear the padding, and normalize over it.
        ``AT_ONCE`` neighbours of one length are encoded together if the model gives them the same bits then, which
        its kernels decide by their shapes: the first such clips of a shape are encoded both ways, to be compared.
        """
        parts: list[AudioFeatures] = []
        for shapes, alike in groupby((part for clip in clips for part in clip), key=lambda part: part.shapes):
            group = list(alike)
            while group:
                size = AT_ONCE if len(group) >= AT_ONCE and self._may_be_together(shapes) else 1
                parts.append(self._encode_checked(group[:AT_ONCE]) if size > 1 else self._encode(group[:1]))
                group = group[size:]
        encoded = AudioFeatures.cat(parts)
        return encoded if self._grid.windows == 1 else self._in_a_row(encoded, [len(clip) for clip in clips])

    def _in_a_row(self, encoded: AudioFeatures, counts: Sequence[int]) -> AudioFeatures:
        """The features of the windows of each clip, one window behind the other; those that are not there masked."""
        size = (len(counts), self._grid.windows, *encoded.mask.shape[1:])
        values = torch.zeros(*size, self.feature_size, device=encoded.values.device)
        mask = torch.zeros(size, dtype=torch.bool, device=encoded.mask.device)
        start = 0
        for row, count in enumerate(counts):
            values[row, :count] = encoded.values[start : start + count]
            mask[row, :count] = encoded.mask[start : start + count]
            start += count
        return AudioFeatures(
            values.flatten(1, 2)[:, : self.num_features].contiguous(),
            mask.flatten(1, 2)[:, : self.num_features].contiguous(),
        )

    def _may_be_together(self, shapes: tuple[tuple[str, torch.Size], ...]) -> bool:
        """Whether there is something to encode, and it is not known to have other bits together."""
        return bool(shapes) and self.model.device.type != "meta" and self._same_together.get(shapes, True)

    def _encode_checked(self, clips: Sequence[EncoderInputs]) -> AudioFeatures:
        """Clips of the same shapes together; the first time alone as well, which then counts."""
        together, shapes = self._encode(clips), clips[0].shapes
        if shapes in self._same_together:
            return together
        alone = AudioFeatures.cat([self._encode([clip]) for clip in clips])
        self._same_together[shapes] = torch.equal(alone.values, together.values)
        if not self._same_together[shapes]:
            logger.info("%s: clips are encoded one by one, since together they have other bits", self.source)
        return alone

    def _encode(self, clips: Sequence[EncoderInputs]) -> AudioFeatures:
        """Clips of the same shapes, together."""
        count = self._grid.per_window
        values = torch.zeros(len(clips), count, self.feature_size, device=self.model.device)
        mask = torch.zeros(len(clips), count, dtype=torch.bool, device=self.model.device)
        if clips[0].tensors:
            names = clips[0].tensors
            inputs = {name: torch.cat([clip.tensors[name] for clip in clips]) for name in names}
            for row, (clip, found) in enumerate(zip(clips, read(self.model, self._reading, inputs), strict=True)):
                heard = self._begins_within(clip.num_samples, len(found))[:count]
                values[row, : len(heard)] = found[: len(heard)]
                mask[row, : len(heard)] = heard.to(mask.device)
        if self.features == "pooled" and count > 1:
            values = torch.stack([_mean(each, kept) for each, kept in zip(values, mask, strict=True)])
            mask = mask.any(dim=1, keepdim=True)
        return AudioFeatures(values, mask)

    def _begins_within(self, num_samples: int, num_features: int) -> Tensor:
        """Bool [num_features]: whether a feature's stretch of time begins within so many samples of the clip."""
        own = own_window(self.extractor)
        if own is None or not num_features:
            return torch.ones(num_features, dtype=torch.bool)
        moments = num_features // self._reading.per_moment
        starts = torch.arange(moments, dtype=torch.float64) * (own / moments)
        return (starts < num_samples).repeat_interleave(self._reading.per_moment)

    def _features_of(self, clip: Tensor) -> Tensor:
        """Features [n, D] of a clip, as the model gives them."""
        inputs = extract(self.extractor, clip)
        if not inputs:
            return torch.empty(0, 0, device=self.model.device)
        return read(self.model, self._reading, inputs)[0]


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean [1, D] of the values [F, D] that are heard; the first of none."""
    return values[mask].mean(dim=0, keepdim=True) if mask.any() else values[:1]


def leveled(clip: Tensor, level_db: float) -> Tensor:
    """The clip times the factor that makes its root mean square ``10^(level_db / 20)`` of full scale 1.

    A clip below ``SILENCE_RMS`` stays as it is, so that silence is not made noise. Samples that come to lie beyond full
    scale are kept: no file is written of them, and cutting them would make loud clips sound otherwise than soft ones.
    """
    rms = clip.double().square().mean().sqrt().item() if clip.numel() else 0.0
    return clip if rms < SILENCE_RMS else clip * (10.0 ** (level_db / 20.0) / rms)


def load_audio_encoder(
    source: str,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    features: FeatureKind | None = None,
    seconds: float = DEFAULT_SECONDS,
    windows: int = 1,
    level_db: float | None = None,
) -> AudioEncoder:
    """Loads an audio encoder by local folder or hub id; ``"embedded"`` is the one in the package.

    Raises:
        InputError: the folder has no weights or no feature extractor, or the id cannot be fetched.
    """
    folder = str(weights.audio_encoder_folder()) if source == EMBEDDED else source
    check_folder(folder, "the audio encoder")
    expected = "an audio encoder with safetensors weights and a feature extractor"
    with as_input_error(
        folder, expected, "name a local folder with --audio-encoder, or a hub id that this machine can fetch"
    ):
        config = read_model_config(folder)
        extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False)
        if not hasattr(extractor, "sampling_rate"):
            raise InputError(folder, "a feature extractor of audio", type(extractor).__name__, "choose another encoder")
        model_class, config = audio_model_class(config)
        model, missing, _ = load_weights(model_class, folder, config, dtype=dtype)
        _fill(model, missing, float("nan"))
        nn.Module.to(model, device)
        encoder = AudioEncoder(
            model, extractor, source, features=features, seconds=seconds, windows=windows, level_db=level_db
        )
        if missing:
            _require_unread(encoder, folder, missing)
            _fill(model, missing, 0.0)  # transformers would leave another random value there in each process
    return encoder


def audio_model_class(config: Any) -> tuple[Any, Any]:
    """The class that reads clips, and its part of a configuration: of CLAP the audio half with its projection."""
    if config.model_type in CLAP_TYPES:
        return ClapAudioModelWithProjection, getattr(config, "audio_config", config)
    return AutoModel, config


def _fill(model: nn.Module, names: list[str], value: float) -> None:
    """Sets weights by name."""
    weights_of = dict(model.named_parameters(remove_duplicate=False)) | dict(
        model.named_buffers(remove_duplicate=False)
    )
    with torch.no_grad():
        for name in names:
            if weights_of[name].is_floating_point():
                weights_of[name].fill_(value)


def _require_unread(encoder: AudioEncoder, folder: str, missing: list[str]) -> None:
    """Of weights that were not stored, only those may be missing that no feature depends on.

    There are such: what wav2vec 2.0 masks its training clips with, and Whisper's decoder. All that is missing is NaN
    here, and so is every feature that is computed with any of it.

    Raises:
        InputError: features depend on some of them.
    """
    clip = 0.1 * torch.randn(encoder.sampling_rate, generator=torch.Generator().manual_seed(0))
    heard = encoder([clip])
    if not heard.values[heard.mask].isfinite().all():
        raise missing_weights(folder, missing)
