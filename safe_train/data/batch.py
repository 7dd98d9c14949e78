"""From rows to tensors: prompts by the base's chat template, answer positions, audio features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from safe_train.data.audio_input import AudioInput, waveform_of
from safe_train.data.image import load_image
from safe_train.data.rows import Row
from safe_train.errors import InputError
from safe_train.model.audio_encoder import AudioEncoder, AudioFeatures


@dataclass(frozen=True)
class Batch:
    """Encoded rows.

    Attributes:
        inputs: what the base takes (``input_ids``, ``attention_mask``, ``pixel_values``, ...).
        features: audio features of each encoder, one clip a row, or None without audio.
        token_rows: int64 [N], the row of each answer token.
        token_positions: int64 [N], the position whose hidden state predicts it.
        labels: int64 [N], the answer tokens. The three are empty for prompts.
    """

    inputs: dict[str, Tensor]
    features: tuple[AudioFeatures, ...] | None
    token_rows: Tensor
    token_positions: Tensor
    labels: Tensor

    @property
    def num_rows(self) -> int:
        """Rows in the batch."""
        return self.inputs["input_ids"].shape[0]


def _ordered_map(num_workers: int) -> Callable[..., Iterator[Any]]:
    """``map`` in so many threads, results in order; the decoders let go of Python's lock."""
    return ThreadPoolExecutor(num_workers).map if num_workers else map


class FeatureCache:
    """Audio features of clips, kept in memory: the encoders are frozen, so a clip is encoded once."""

    def __init__(self, encoders: Sequence[AudioEncoder], num_workers: int = 0) -> None:
        self.encoders = list(encoders)
        self._map = _ordered_map(num_workers)
        self._by_clip: dict[AudioInput | None, tuple[AudioFeatures, ...]] = {}

    def get(self, clips: Sequence[AudioInput | None]) -> tuple[AudioFeatures, ...]:
        """Features of each encoder for a batch of clips; None is silence."""
        new = [clip for clip in dict.fromkeys(clips) if clip not in self._by_clip]
        for clip, waveforms in zip(new, self._map(self._waveforms, new), strict=True):
            # One by one: in a batch, a clip's last bits depend on its neighbors, and a resumed run on its past.
            encoded = (encoder([waveform]) for encoder, waveform in zip(self.encoders, waveforms, strict=True))
            self._by_clip[clip] = tuple(encoded)
        per_clip = [self._by_clip[clip] for clip in clips]
        return tuple(AudioFeatures.cat(list(parts)) for parts in zip(*per_clip, strict=True))

    def _waveforms(self, clip: AudioInput | None) -> list[Tensor]:
        """The clip at each encoder's rate."""
        return [waveform_of(clip, encoder.sampling_rate) for encoder in self.encoders]


class RowEncoder:
    """Encodes rows with the base's processor and the audio encoders."""

    def __init__(
        self, processor: Any, features: FeatureCache, device: str | torch.device = "cpu", num_workers: int = 0
    ) -> None:
        if not getattr(processor, "chat_template", None):
            raise InputError("processor", "a chat template", "none", "choose an instruction-tuned base")
        self.processor = processor
        self.features = features
        self.device = device
        self._map = _ordered_map(num_workers)
        self._answers: dict[tuple[str, str], list[int]] = {}

    def training_batch(self, rows: Sequence[Row]) -> Batch:
        """Prompts with their first answer, right-padded, with clips attached where the rows have them."""
        texts = [self._conversation(row, answer=row.answers[0]) for row in rows]
        inputs = self._process(texts, rows, padding_side="right")
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
        return Batch(inputs, self._features(rows), *columns)

    def prompt_batch(self, rows: Sequence[Row]) -> Batch:
        """Prompts that wait for an answer, left-padded for generation."""
        inputs = self._process([self._conversation(row) for row in rows], rows, padding_side="left")
        empty = torch.empty(0, dtype=torch.int64, device=self.device)
        return Batch(inputs, self._features(rows), empty, empty, empty)

    def decode(self, generated: Tensor) -> list[str]:
        """Answers as text, without special tokens and outer white space."""
        return [text.strip() for text in self.processor.batch_decode(generated, skip_special_tokens=True)]

    def features_of(self, rows: Sequence[Row]) -> tuple[AudioFeatures, ...]:
        """Audio features of the rows' clips; a row without one hears silence."""
        return tuple(features.to(self.device) for features in self.features.get([row.audio for row in rows]))

    def _features(self, rows: Sequence[Row]) -> tuple[AudioFeatures, ...] | None:
        return None if all(row.audio is None for row in rows) else self.features_of(rows)

    def _process(self, texts: list[str], rows: Sequence[Row], *, padding_side: str) -> dict[str, Tensor]:
        images = list(self._map(load_image, [row.image for row in rows if row.image is not None]))
        encoded = self.processor(
            text=texts,
            images=images or None,
            padding=True,
            padding_side=padding_side,
            add_special_tokens=False,  # the chat template has written them
            return_tensors="pt",
        )
        return {name: value.to(self.device) for name, value in encoded.items()}

    def _conversation(self, row: Row, answer: str | None = None) -> str:
        content = [{"type": "text", "text": row.question}]
        if row.image is not None:
            content.insert(0, {"type": "image"})
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        prompt = self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        if answer is None:
            return prompt
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        whole = self.processor.apply_chat_template(messages, add_generation_prompt=False, tokenize=False)
        # Some templates (LLaVA-1.5's) end a turn with a space alone; the model must learn to stop all the same.
        end = self.processor.tokenizer.eos_token
        return whole if end in whole[len(prompt) :] else whole.rstrip() + end

    def _answer_ids(self, row: Row) -> list[int]:
        """The tokens that follow the prompt: the answer and what the template ends a turn with."""
        key = (row.question, row.answers[0])
        if key not in self._answers:
            texts = [self._conversation(row, answer=answer) for answer in (None, row.answers[0])]
            prompt, full = (self.processor.tokenizer(text, add_special_tokens=False).input_ids for text in texts)
            added = texts[1][len(texts[0]) :]
            if full[: len(prompt)] != prompt or row.answers[0].strip() not in added:
                raise InputError(
                    "chat template",
                    "an answer that follows the generation prompt",
                    "a conversation that is not its prompt followed by the answer",
                    "choose a base whose template is prefix-stable",
                )
            self._answers[key] = full[len(prompt) :]
        return self._answers[key]
