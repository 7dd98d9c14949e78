"""A cache of audio features: encoders are frozen, so a clip is encoded once and its features can outlive the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from safe_train.audio.input import SYNTHETIC_SECONDS, Amplified, AudioInput, WhiteNoise, render_waveform
from safe_train.data.cache.tensor_store import TensorStore, computing_device
from safe_train.io.fingerprints import file_sha256, json_sha256, tensors_sha256, versions
from safe_train.model.audio.encoder import AudioEncoder, AudioFeatures

_UNBOUNDED = 2**63
_LAYOUT = 2  # to be raised when a clip is prepared in another way, or its features are stored in another


class FeatureCache:
    """Audio features of clips, each encoded once by each encoder, as long as the store has room.

    A clip is always encoded in a batch of one: in a larger batch its last bits depend on the other clips, and a resumed
    run would get different ones. A stored feature is thus the one that would be computed, whichever run stored it.
    """

    def __init__(
        self, encoders: Sequence[AudioEncoder], num_workers: int = 0, store: TensorStore | None = None
    ) -> None:
        """Takes the encoders, so many threads that decode clips, and a store; by default an unbounded memory."""
        self.encoders = list(encoders)
        self.store = store or TensorStore(_UNBOUNDED)
        self._map = ordered_map(num_workers)
        self._clip_sha256 = cache(_clip_sha256)
        self._encoder_sha256 = cache(_encoder_sha256)

    def get(self, clips: Sequence[AudioInput | None]) -> tuple[AudioFeatures, ...]:
        """Features of each encoder for a batch of clips, on the CPU; None is silence."""
        different = list(dict.fromkeys(clips))
        found = {clip: [self._find(number, clip) for number in range(len(self.encoders))] for clip in different}
        new = [clip for clip, features in found.items() if any(part is None for part in features)]
        for clip, waveforms in zip(new, self._map(self._waveforms, new), strict=True):
            found[clip] = [
                self._encode(number, clip, waveform) if features is None else features
                for number, (features, waveform) in enumerate(zip(found[clip], waveforms, strict=True))
            ]
        columns = zip(*(found[clip] for clip in clips), strict=True)
        return tuple(AudioFeatures.cat(list(column)) for column in columns)  # type: ignore[arg-type] - none is None now

    def _find(self, number: int, clip: AudioInput | None) -> AudioFeatures | None:
        tensors = self.store.find((number, clip), partial(self._key, number, clip))
        return None if tensors is None else AudioFeatures(tensors["values"].float(), tensors["mask"])

    def _encode(self, number: int, clip: AudioInput | None, waveform: Tensor) -> AudioFeatures:
        features = self.encoders[number]([waveform])
        values = _without_loss(features.values, self.encoders[number].model.dtype)
        tensors = {"values": values, "mask": features.mask}
        kept = self.store.add((number, clip), partial(self._key, number, clip), tensors)
        return AudioFeatures(kept["values"].float(), kept["mask"])

    def _waveforms(self, clip: AudioInput | None) -> list[Tensor]:
        """The part of the clip that each encoder uses, at its sampling rate."""
        return [render_waveform(clip, encoder.sampling_rate, encoder.window) for encoder in self.encoders]

    def _key(self, number: int, clip: AudioInput | None) -> str:
        """Digest of everything that the features depend on."""
        return json_sha256([self._encoder_sha256(self.encoders[number]), self._clip_sha256(clip)])


def ordered_map(num_workers: int) -> Callable[..., Iterator[Any]]:
    """``map`` in so many threads, results in order; the decoders let go of Python's lock."""
    return ThreadPoolExecutor(num_workers).map if num_workers else map


def _without_loss(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The values in a dtype if it holds each of them exactly, as the encoder's own does those that it computed."""
    smaller = values.to(dtype)
    return smaller if torch.equal(smaller.to(values.dtype), values) else values


def _clip_sha256(clip: AudioInput | None) -> str:
    """Digest of what is heard: a file counts by its bytes, not by its path."""
    match clip:
        case None:
            return json_sha256(["silence", SYNTHETIC_SECONDS])
        case WhiteNoise(level_db, seed):
            return json_sha256(["white noise", level_db, seed, SYNTHETIC_SECONDS])
        case Amplified(path, gain_db):
            return json_sha256(["amplified", file_sha256(path), gain_db])
        case Path():
            return json_sha256(["file", file_sha256(clip)])


def _layout(dtype: torch.dtype) -> str:
    """How features are stored: an earlier version cannot use others than float32."""
    return str(_LAYOUT) if dtype == torch.float32 else f"{_LAYOUT}, {dtype}"


def _encoder_sha256(encoder: AudioEncoder) -> str:
    """Digest of weights, configuration, extractor, the encoder's own settings, versions and the kind of device."""
    plain = {name: value for name, value in vars(encoder).items() if isinstance(value, str | int | float)}
    return json_sha256(
        {
            "weights": tensors_sha256(encoder.state_dict().items()),
            "config": encoder.model.config.to_dict(),
            "extractor": encoder.extractor.to_dict(),
            "settings": {name: value for name, value in plain.items() if name != "source"},  # the weights say it better
            "versions": versions() | {"soundfile": version("soundfile"), "layout": _layout(encoder.model.dtype)},
            "device": computing_device(encoder.model.device),
        }
    )
