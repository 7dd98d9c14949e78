"""The base's predictions, made before anything is attached to it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from safe_train.data.collator import Collator, FeatureCache
from safe_train.data.example import Example
from safe_train.evaluation.answer_lengths import AnswerLengths, answer_lengths
from safe_train.evaluation.predictions import BASE, NoStore, Prediction, PredictionStore
from safe_train.evaluation.settings import EvaluationSettings
from safe_train.evaluation.text_examples import answer_by_form, bits_by_row, hash_states, num_bytes
from safe_train.metrics.vqa_accuracy import vqa_accuracy
from safe_train.model.base import Base
from safe_train.model.batch import Batch
from safe_train.model.generation import generate_greedily, stop_tokens


@dataclass(frozen=True)
class BaseAnswers:
    """One prediction for each VL and text-only example, in their order.

    Attributes:
        samples: answers to VL examples, scores and digests of the logits.
        text: the same of text-only examples, documents with their bits.
    """

    samples: list[Prediction]
    text: list[Prediction] = field(default_factory=list)

    @property
    def answers(self) -> list[str]:
        """The answers to VL examples only."""
        return [prediction.answer for prediction in self.samples]

    @property
    def scores(self) -> list[float]:
        """VQA accuracy of each."""
        return [prediction.score for prediction in self.samples]


def base_answers(
    base: Base,
    examples: Sequence[Example],
    settings: EvaluationSettings,
    store: PredictionStore | NoStore | None = None,
    *,
    text: Sequence[Example] = (),
    lengths: AnswerLengths | None = None,
    progress: Callable[[str], None] = lambda _words: None,
) -> BaseAnswers:
    """Answers and logits of the base as it was loaded; call it before SAFE is attached.

    Questions without an image are scored as those with one: by VQA accuracy where they have four references or more,
    which with fewer, and so with one, is exact match after the same normalization.

    Args:
        base: the base.
        examples: VL examples.
        settings: examples per batch, and the longest answer.
        store: where the answers are stored, and read from if present.
        text: text-only examples, questions and documents.
        lengths: maximum answer lengths, if not those of the settings for these examples.
        progress: called before each kind of example.
    """
    positions = getattr(base.text_config, "max_position_embeddings", None)
    encoder = Collator(
        base.processor, FeatureCache([]), base.model.device, dtype=base.model.dtype, max_positions=positions
    )
    store = store or NoStore()
    lengths = lengths or answer_lengths(settings, encoder, examples, text)

    def generate(chunk: Sequence[Example], max_new_tokens: int) -> list[Prediction]:
        prompts = encoder.prompt_batch(chunk).inputs
        generated = generate_greedily(base, prompts, max_new_tokens)
        return [
            Prediction(
                example.row_id, answer, vqa_accuracy(answer, example.answers, normalize_unanimous=True), ended=ended
            )
            for example, answer, ended in zip(
                chunk, encoder.decode(generated), ends(generated, base, max_new_tokens), strict=True
            )
        ]

    @torch.no_grad()
    def answer(chunk: Sequence[Example]) -> list[Prediction]:
        predictions = generate(chunk, lengths.vl)
        logits = base.model(**encoder.training_batch(chunk).inputs, use_cache=False).logits
        return [
            replace(prediction, logits_sha256=sha)
            for prediction, sha in zip(predictions, hash_logits(logits), strict=True)
        ]

    @torch.no_grad()
    def answer_text(chunk: Sequence[Example]) -> list[Prediction]:
        predictions = generate(chunk, lengths.text)
        inputs = encoder.training_batch(chunk).inputs
        found = hash_states(base.head, base.last_hidden_state(**inputs), inputs["attention_mask"])
        return [replace(prediction, logits_sha256=sha) for prediction, sha in zip(predictions, found, strict=True)]

    @torch.no_grad()
    def read(chunk: Sequence[Example]) -> list[Prediction]:
        batch = encoder.training_batch(chunk)
        return document_predictions(base, chunk, batch, base.last_hidden_state(**batch.inputs))

    progress("VL, base")
    unheard = [replace(example, audio=None) for example in examples]
    predictions = store.complete("vl", BASE, unheard, answer, settings.batch_size)
    if not text:
        return BaseAnswers(predictions)
    progress("text, base")
    unheard = [replace(example, audio=None) for example in text]
    answer_both = answer_by_form(unheard, answer_text, read, collective_forward=store.processes.collective_forward)
    return BaseAnswers(predictions, store.complete("text", BASE, unheard, answer_both, settings.batch_size))


def document_predictions(base: Base, examples: Sequence[Example], batch: Batch, hidden: Tensor) -> list[Prediction]:
    """Bits and digests of documents from the base's own hidden states [B, T, H]."""
    bits = bits_by_row(base.head, hidden[batch.token_rows, batch.token_positions], batch)
    counts = torch.bincount(batch.token_rows, minlength=len(examples)).tolist()
    found = hash_states(base.head, hidden, batch.inputs["attention_mask"])
    return [
        Prediction(
            example.row_id, "", 0.0, tokens=count, logits_sha256=sha, bits=row_bits, num_bytes=num_bytes(example)
        )
        for example, count, sha, row_bits in zip(examples, counts, found, bits, strict=True)
    ]


def ends(generated: Tensor, base: Base, max_new_tokens: int) -> list[bool]:
    """For each example of ids [B, T], whether the answer came to an end before the longest length."""
    return (find_ended(generated, base) | (generated.shape[1] < max_new_tokens)).tolist()


def find_ended(generated: Tensor, base: Base) -> Tensor:
    """For each example of ids [B, T], whether a token that ends an answer is in it: bool [B]."""
    stops = torch.tensor(stop_tokens(base), dtype=generated.dtype, device=generated.device)
    return torch.isin(generated, stops).any(dim=1)


def hash_logits(logits: Tensor) -> list[str]:
    """SHA-256 of each example's logits."""
    rows = logits.cpu().contiguous().view(torch.uint8).numpy()
    return [hashlib.sha256(row.tobytes()).hexdigest() for row in rows]
