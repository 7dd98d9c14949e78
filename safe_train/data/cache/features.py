"""A cache of audio features: encoders are frozen, so a clip is encoded once and its features can outlive the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from safe_train.audio.input import SYNTHETIC_SECONDS, Amplified, AudioInput, WhiteNoise, render_waveform
from safe_train.data.cache.tensor_store import Tensors, TensorStore, computing_device
from safe_train.io.fingerprints import file_sha256, json_sha256, tensors_sha256, versions
from safe_train.model.audio.encoder import AudioEncoder, AudioFeatures, EncoderInputs

_UNBOUNDED = 2**63
_LAYOUT = 2  # to be raised when a clip is prepared in another way, or its features are stored in another


@dataclass(frozen=True)
class PreparedClip:
    """A clip on its way to an encoder: all that can be done without its model, perhaps in another process.

    Attributes:
        key: its key on disk; empty if nothing is kept there.
        stored: its features, if they were found on disk.
        inputs: otherwise what the encoder takes, window by window.
    """

    key: str
    stored: Tensors | None
    inputs: Sequence[EncoderInputs] | None


PreparedClips = Mapping[AudioInput | None, Sequence[PreparedClip]]
"""Of each clip, one for each encoder."""

NOT_PREPARED: PreparedClips = MappingProxyType({})


class FeatureCache:
    """Audio features of clips, each encoded once by each encoder, as long as the store has room.

    A clip has the features that it has when it is encoded alone, so that a resumed run gets the same ones, and a stored
    feature is the one that would be computed, whichever run stored it.
    """

    def __init__(
        self, encoders: Sequence[AudioEncoder], num_workers: int = 0, store: TensorStore | None = None
    ) -> None:
        """Takes the encoders, so many threads that decode clips, and a store; by default an unbounded memory."""
        self.encoders = list(encoders)
        self.store = store or TensorStore(_UNBOUNDED)
        self.map = ordered_map(num_workers)
        self._clip_sha256 = cache(_clip_sha256)
        self._encoder_sha256 = cache(_encoder_sha256)

    def get(
        self, clips: Sequence[AudioInput | None], prepared: PreparedClips = NOT_PREPARED
    ) -> tuple[AudioFeatures, ...]:
        """Features of each encoder for a batch of clips, on the CPU; None is silence.

        Args:
            clips: what is heard.
            prepared: clips that :meth:`prepare` was given before; others are decoded here if they are new.

        Raises:
            InputError: a file cannot be read.
        """
        different = list(dict.fromkeys(clips))
        count = range(len(self.encoders))
        found = [{clip: self._find(number, clip, prepared) for clip in different} for number in count]
        new = [clip for clip in different if any(features[clip] is None for features in found)]
        ready = self._with_prepared(new, prepared)
        for number, features in enumerate(found):
            features |= self._encode(number, {clip: ready[clip][number] for clip in new if features[clip] is None})
        return tuple(AudioFeatures.cat([features[clip] for clip in clips]) for features in found)  # type: ignore[misc]

    def missing(self, clips: Iterable[AudioInput | None]) -> list[AudioInput | None]:
        """The different clips whose features are not in memory, in order."""
        count = range(len(self.encoders))
        return [clip for clip in dict.fromkeys(clips) if any((number, clip) not in self.store for number in count)]

    def prepare(self, clip: AudioInput | None) -> list[PreparedClip]:
        """Reads the clip's features from disk or, if they are not there, the clip; of each encoder.

        Raises:
            InputError: its file cannot be read.
        """
        return [self._stored(number, clip) or self._decode(number, clip) for number in range(len(self.encoders))]

    def know_encoders(self) -> None:
        """Computes what the keys on disk need of the encoders' weights, so that :meth:`prepare` reads none of them."""
        if self.store.folder is not None:
            for encoder in self.encoders:
                self._encoder_sha256(encoder)

    def _stored(self, number: int, clip: AudioInput | None) -> PreparedClip | None:
        """The clip with its features from disk, if they are there."""
        if self.store.folder is None:
            return None
        key = self._key(number, clip)
        stored = self.store.folder.load(key)
        return None if stored is None else PreparedClip(key, stored, None)

    def _decode(self, number: int, clip: AudioInput | None) -> PreparedClip:
        """The clip as the encoder takes it."""
        encoder = self.encoders[number]
        waveform = render_waveform(clip, encoder.sampling_rate, encoder.window)
        key = self._key(number, clip) if self.store.folder is not None else ""
        return PreparedClip(key, None, encoder.prepare(waveform))

    def _decode_for_all(self, clip: AudioInput | None) -> list[PreparedClip]:
        return [self._decode(number, clip) for number in range(len(self.encoders))]

    def _find(self, number: int, clip: AudioInput | None, prepared: PreparedClips) -> AudioFeatures | None:
        if clip not in prepared:
            tensors = self.store.find((number, clip), partial(self._key, number, clip))
        else:
            tensors = self.store.recall((number, clip))
            if tensors is None and (tensors := prepared[clip][number].stored) is not None:
                self.store.add_stored((number, clip), tensors)
        return None if tensors is None else AudioFeatures(tensors["values"].float(), tensors["mask"])

    def _with_prepared(self, clips: Sequence[AudioInput | None], prepared: PreparedClips) -> PreparedClips:
        """The clips, prepared if they are not yet."""
        rest = [clip for clip in clips if clip not in prepared]
        return {**prepared, **dict(zip(rest, self.map(self._decode_for_all, rest), strict=True))}

    def _encode(
        self, number: int, clips: Mapping[AudioInput | None, PreparedClip]
    ) -> dict[AudioInput | None, AudioFeatures]:
        """Features of new clips, which are kept."""
        if not clips:
            return {}
        encoder, found = self.encoders[number], {}
        features = encoder.encode([prepared.inputs for prepared in clips.values() if prepared.inputs is not None])
        for row, (clip, prepared) in enumerate(clips.items()):
            values = _without_loss(features.values[row : row + 1], encoder.model.dtype)
            tensors = {"values": values, "mask": features.mask[row : row + 1]}
            kept = self.store.add((number, clip), lambda key=prepared.key: key, tensors)
            found[clip] = AudioFeatures(kept["values"].float(), kept["mask"])
        return found

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
