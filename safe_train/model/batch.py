"""The batches that the model takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from safe_train.model.audio.encoder import AudioFeatures


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
