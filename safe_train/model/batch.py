"""The batches that the model takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from safe_train.model.audio.encoder import AudioFeatures

_INPUT, _FEATURES = "inputs/", "features/"
_COLUMNS = ("token_rows", "token_positions", "labels")


@dataclass(frozen=True)
class Batch:
    """Encoded examples.

    Attributes:
        inputs: the base's inputs (``input_ids``, ``attention_mask``, ``pixel_values``, ...).
        features: audio features of each encoder, one clip per example, or None without audio.
        token_rows: int64 [N], the batch index of each answer token.
        token_positions: int64 [N], the position whose hidden state predicts it.
        labels: int64 [N], the answer tokens. The three are empty for prompts.
        rows: the encoded examples; empty if they are not known, as for a batch that was read from a file.
    """

    inputs: dict[str, Tensor]
    features: tuple[AudioFeatures, ...] | None
    token_rows: Tensor
    token_positions: Tensor
    labels: Tensor
    rows: tuple[Any, ...] = ()

    @property
    def num_rows(self) -> int:
        """Examples in the batch."""
        return self.inputs["input_ids"].shape[0]

    def to_tensors(self) -> dict[str, Tensor]:
        """All its tensors, by name."""
        tensors = {_INPUT + name: value for name, value in self.inputs.items()}
        tensors |= {name: getattr(self, name) for name in _COLUMNS}
        for number, features in enumerate(self.features or ()):
            tensors |= {f"{_FEATURES}{number}/values": features.values, f"{_FEATURES}{number}/mask": features.mask}
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], rows: tuple[Any, ...] = ()) -> Batch:
        """The batch of :meth:`to_tensors`.

        Raises:
            KeyError: one is missing.
        """
        count = sum(name.startswith(_FEATURES) for name in tensors) // 2
        features = tuple(
            AudioFeatures(tensors[f"{_FEATURES}{number}/values"], tensors[f"{_FEATURES}{number}/mask"])
            for number in range(count)
        )
        inputs = {name.removeprefix(_INPUT): value for name, value in tensors.items() if name.startswith(_INPUT)}
        token_rows, token_positions, labels = (tensors[name] for name in _COLUMNS)
        return cls(inputs, features or None, token_rows, token_positions, labels, rows)
