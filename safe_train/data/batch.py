"""From rows to tensors: prompts by the base's chat template, answer positions, audio features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from safe_train.data.feature_cache import FeatureCache, ordered_map
from safe_train.data.image import load_image
from safe_train.data.rows import Row
from safe_train.model.audio_encoder import AudioFeatures
from safe_train.model.prompting import Turn, prompts_of


@dataclass(frozen=True)
class Batch:
    """Encoded rows.

    Attributes:
        inputs: what the base takes (``input_ids``, ``attention_mask``, ``pixel_values``, ...).
        features: audio features of each encoder, one clip a row, or None without audio.
        token_rows: int64 [N], the row of each answer token.
        token_positions: int64 [N], the position whose hidden state predicts it.
        labels: int64 [N], the answer tokens. The three are empty for prompts.
        rows: what was encoded.
    """

    inputs: dict[str, Tensor]
    features: tuple[AudioFeatures, ...] | None
    token_rows: Tensor
    token_positions: Tensor
    labels: Tensor
    rows: tuple[Row, ...] = ()

    @property
    def num_rows(self) -> int:
        """Rows in the batch."""
        return self.inputs["input_ids"].shape[0]


class RowEncoder:
    """Encodes rows with the base's processor and the audio encoders."""

    def __init__(
        self, processor: Any, features: FeatureCache, device: str | torch.device = "cpu", num_workers: int = 0
    ) -> None:
        self.prompts = prompts_of(processor)
        self.processor = processor
        self.features = features
        self.device = device
        self._map = ordered_map(num_workers)
        self._answers: dict[tuple[str, str], list[int]] = {}

    def training_batch(self, rows: Sequence[Row]) -> Batch:
        """Prompts with their first answer, right-padded, with clips attached where the rows have them."""
        inputs = self._process([self._turn(row, row.answers[0]) for row in rows], rows, padding_side="right")
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        token_rows, positions, labels = [], [], []
        for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            answer = self._answer_ids(row)
            tail = inputs["input_ids"][index, length - len(answer) : length].tolist()
            if tail != answer:
                raise RuntimeError(f"row {row.row_id}: the encoded row does not end in its answer, {tail} != {answer}")
            token_rows += [index] * len(answer)
            positions += range(length - len(answer) - 1, length - 1)
            labels += answer
        columns = (torch.tensor(column, device=self.device) for column in (token_rows, positions, labels))
        return Batch(inputs, self._features(rows), *columns, rows=tuple(rows))

    def prompt_batch(self, rows: Sequence[Row]) -> Batch:
        """Prompts that wait for an answer, left-padded for generation."""
        inputs = self._process([self._turn(row) for row in rows], rows, padding_side="left")
        empty = torch.empty(0, dtype=torch.int64, device=self.device)
        return Batch(inputs, self._features(rows), empty, empty, empty, rows=tuple(rows))

    def decode(self, generated: Tensor) -> list[str]:
        """Answers as text, without special tokens and outer white space."""
        return [text.strip() for text in self.processor.batch_decode(generated, skip_special_tokens=True)]

    def features_of(self, rows: Sequence[Row]) -> tuple[AudioFeatures, ...]:
        """Audio features of the rows' clips; a row without one hears silence."""
        return tuple(features.to(self.device) for features in self.features.get([row.audio for row in rows]))

    def _features(self, rows: Sequence[Row]) -> tuple[AudioFeatures, ...] | None:
        return None if all(row.audio is None for row in rows) else self.features_of(rows)

    def _process(self, turns: list[Turn], rows: Sequence[Row], *, padding_side: str) -> dict[str, Tensor]:
        images = iter(list(self._map(load_image, [row.image for row in rows if row.image is not None])))
        per_row = [[] if row.image is None else [next(images)] for row in rows]
        encoded = self.prompts.encode(turns, per_row, padding_side)
        return {name: value.to(self.device) for name, value in encoded.items()}

    def _turn(self, row: Row, answer: str | None = None) -> Turn:
        return Turn(row.question, 0 if row.image is None else 1, answer)

    def _answer_ids(self, row: Row) -> list[int]:
        """The tokens that follow the prompt: the answer and what ends it."""
        key = (row.question, row.answers[0])
        if key not in self._answers:
            self._answers[key] = self.prompts.answer_ids(self._turn(row, row.answers[0]))
        return self._answers[key]
