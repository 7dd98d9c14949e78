"""Collates examples into tensors: prompts by the base's chat template, answer positions, audio features."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from safe_train.audio.input import AudioInput, describe
from safe_train.data.cache.features import NOT_PREPARED, FeatureCache, PreparedClips, ordered_map
from safe_train.data.example import CAPTION, Example
from safe_train.data.image import load_image
from safe_train.errors import InputError
from safe_train.model.audio.encoder import AudioFeatures
from safe_train.model.base import in_precision
from safe_train.model.batch import Batch
from safe_train.model.prompting import Document, Turn, placeholder_in, prompts_of


class Collator:
    """Encodes examples with the base's processor and the audio encoders."""

    def __init__(
        self,
        processor: Any,
        features: FeatureCache,
        device: str | torch.device = "cpu",
        num_workers: int = 0,
        *,
        dtype: torch.dtype | None = None,
        max_positions: int | None = None,
        document_tokens: int | None = None,
    ) -> None:
        """Takes what a base reads with.

        Args:
            processor: the base's.
            features: audio features of clips.
            device: where the tensors go.
            num_workers: threads that decode images.
            dtype: precision of the pixels; None keeps the processor's.
            max_positions: positions of the base, which no document may exceed; None if there is no limit.
            document_tokens: tokens that stand for a document among retention examples; None for all.
        """
        self.prompts = prompts_of(processor)
        self.processor = processor
        self.features = features
        self.dtype = dtype
        self.device, self.max_positions, self.document_tokens = device, max_positions, document_tokens
        self._map = ordered_map(num_workers)
        self._answers: dict[Turn | Document, list[int]] = {}

    def training_batch(self, examples: Sequence[Example], *, protected: bool = False) -> Batch:
        """:meth:`training_inputs` on the device, with clips attached where the examples have them.

        Raises:
            InputError: as :meth:`training_inputs`, or a clip cannot be read.
        """
        return self.with_audio(self.training_inputs(examples, protected=protected), silence=False)

    def training_inputs(self, examples: Sequence[Example], *, protected: bool = False) -> Batch:
        """Prompts with their first answer, right-padded, on the CPU and without audio.

        Every token of a document is an answer token, but for the one that begins it; with ``protected`` only those of
        :meth:`retained_tokens`.

        Raises:
            InputError: an image cannot be read, a text holds the processor's placeholder of an image, or a document has
                more tokens than the base has positions.
        """
        turns = [self._turn(example, example.answers[0]) for example in examples]
        inputs = self._process(turns, examples, padding_side="right")
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        token_rows, positions, labels = [], [], []
        for index, (example, turn, length) in enumerate(zip(examples, turns, lengths, strict=True)):
            answer = self._answer_ids(turn)
            tail = inputs["input_ids"][index, length - len(answer) : length].tolist()
            if example.is_document and self.max_positions is not None and length > self.max_positions:
                expected = f"a document of at most {self.max_positions} tokens, as the base takes"
                raise InputError(f"example {example.row_id}", expected, str(length), "split it into shorter ones")
            if tail != answer:
                raise RuntimeError(f"example {example.row_id}: it does not end in its answer, {tail} != {answer}")
            chosen = self.retained_tokens(example, len(answer)) if protected else range(len(answer))
            token_rows += [index] * len(chosen)
            positions += [length - len(answer) - 1 + place for place in chosen]
            labels += [answer[place] for place in chosen]
        columns = (torch.tensor(column) for column in (token_rows, positions, labels))
        return Batch(inputs, None, *columns, rows=tuple(examples))

    def with_audio(self, batch: Batch, *, silence: bool, prepared: PreparedClips = NOT_PREPARED) -> Batch:
        """A batch of :meth:`training_inputs` on the device, with the audio features of its examples.

        Args:
            batch: the batch.
            silence: whether examples without a clip get silent audio, even if none has a clip.
            prepared: clips that are decoded already.

        Raises:
            InputError: a clip cannot be read.
        """
        clips = [example.audio for example in batch.rows]
        heard = silence or any(clip is not None for clip in clips)
        columns = (column.to(self.device) for column in (batch.token_rows, batch.token_positions, batch.labels))
        return Batch(
            self._on_device(batch.inputs), self._hear(clips, prepared) if heard else None, *columns, rows=batch.rows
        )

    def retained_tokens(self, example: Example, num_tokens: int) -> Sequence[int]:
        """Places of the answer tokens that a retention example brings into the retention loss.

        That loss is a mean over answer tokens. An answer has two or three and a document hundreds: whole documents
        would leave the answers next to no weight. So a document brings ``document_tokens`` of its tokens, drawn by
        its id and by what it hears, thus others at each of its turns.
        """
        if not example.is_document or self.document_tokens is None or num_tokens <= self.document_tokens:
            return range(num_tokens)
        heard = describe(example.audio).rpartition("/")[2]  # no folder: the draw is the same on any machine
        rng = np.random.default_rng([zlib.crc32(name.encode()) for name in (example.row_id, heard)])
        return sorted(rng.choice(num_tokens, size=self.document_tokens, replace=False).tolist())

    def prompt_batch(self, examples: Sequence[Example]) -> Batch:
        """Prompts that wait for an answer, left-padded for generation.

        Raises:
            InputError: as :meth:`training_batch`.
            ValueError: an example is a document, which has no prompt.
        """
        if documents := [example.row_id for example in examples if example.is_document]:
            raise ValueError(f"examples must be questions, got the document {documents[0]}")
        inputs = self._process([self._turn(example) for example in examples], examples, padding_side="left")
        empty = torch.empty(0, dtype=torch.int64)
        return self.with_audio(Batch(inputs, None, empty, empty, empty, rows=tuple(examples)), silence=False)

    def decode(self, generated: Tensor) -> list[str]:
        """Answers as text, without special tokens and outer white space."""
        return [text.strip() for text in self.processor.batch_decode(generated, skip_special_tokens=True)]

    def features_of(self, examples: Sequence[Example]) -> tuple[AudioFeatures, ...]:
        """Audio features of the examples' clips; an example without one gets silent audio."""
        return self._hear([example.audio for example in examples])

    def in_this_thread(self) -> None:
        """Decodes files one after the other from now on: a forked process has none of its parent's threads."""
        self._map = self.features.map = map

    def _hear(
        self, clips: Sequence[AudioInput | None], prepared: PreparedClips = NOT_PREPARED
    ) -> tuple[AudioFeatures, ...]:
        return tuple(features.to(self.device) for features in self.features.get(clips, prepared))

    def _on_device(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(self.device) for name, value in inputs.items()}

    def _process(
        self, turns: Sequence[Turn | Document], examples: Sequence[Example], *, padding_side: str
    ) -> dict[str, Tensor]:
        images = iter(list(self._map(load_image, [example.image for example in examples if example.image is not None])))
        per_example = [[] if example.image is None else [next(images)] for example in examples]
        encoded = self.prompts.encode(turns, per_example, padding_side)
        if self.dtype is not None:
            encoded = {name: in_precision(value, self.dtype) for name, value in encoded.items()}
        return encoded

    def _turn(self, example: Example, answer: str | None = None) -> Turn | Document:
        _require_plain(self.processor, example, (example.question, answer or ""))
        return (
            Document(example.answers[0])
            if example.is_document
            else Turn(example.question, int(example.image is not None), answer)
        )

    def _answer_ids(self, turn: Turn | Document) -> list[int]:
        """The tokens that follow the prompt: the answer and what ends it."""
        text_alone = replace(turn, num_images=0) if isinstance(turn, Turn) else turn
        if text_alone not in self._answers:
            self._answers[text_alone] = self.prompts.answer_ids(turn)
        return self._answers[text_alone]


def require_plain_text(processor: Any, examples: Iterable[Example]) -> None:
    """Finds out before the work whether every text that is to be read can be; readers of lists know no processor.

    Raises:
        InputError: a question, or an answer that is trained on, holds one of the processor's placeholders.
    """
    for example in examples:
        trained_on = example.answers if example.kind == CAPTION else example.answers[:1]
        _require_plain(processor, example, (example.question, *trained_on))


def _require_plain(processor: Any, example: Example, texts: Iterable[str]) -> None:
    for text in texts:
        if found := placeholder_in(processor, text):
            expected = "text without the processor's placeholders"
            raise InputError(f"example {example.row_id}", expected, repr(found), "remove it; images are files")
