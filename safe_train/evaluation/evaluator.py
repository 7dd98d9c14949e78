"""Puts a model under each condition and keeps every answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from safe_kernels import linear_kl_divergence
from safe_train.audio.input import describe
from safe_train.data.collator import Collator
from safe_train.data.example import Example
from safe_train.distributed.processes import ALONE, Processes
from safe_train.evaluation.audio_metric import resolve_audio_metric
from safe_train.evaluation.base_answers import BaseAnswers, digests, document_predictions, ended_rows, ends
from safe_train.evaluation.conditions import (
    AUDIO_CONDITIONS,
    VL_CONDITIONS,
    Condition,
    Distractors,
    Selection,
    select,
)
from safe_train.evaluation.lengths import AnswerLengths, answer_lengths
from safe_train.evaluation.predictions import Answer, Kind, NoStore, Prediction, PredictionStore
from safe_train.evaluation.results import Evaluation
from safe_train.evaluation.settings import EvaluationSettings
from safe_train.evaluation.summarize import summarize
from safe_train.evaluation.text_rows import bits_by_row, by_form, num_bytes, state_digests
from safe_train.metrics.text_overlap import token_f1
from safe_train.metrics.vqa_accuracy import exact_match, vqa_accuracy
from safe_train.model.batch import Batch
from safe_train.model.retention_model import SafeRetentionModel
from safe_train.model.safe_model import FusionStatistics, SafeModel


class Evaluator:
    """Evaluates a model on fixed rows, alone or as one of several processes that share the batches.

    Attributes:
        model: SAFE.
        encoder: its row encoder, whose feature cache is shared with training.
        vl_rows: VL rows.
        text_rows: text-only rows, questions and documents.
        audio_rows: audio rows.
        base: the base's answers to the VL rows and the text-only rows.
        lengths: longest answers.
        audio_metric: what captions are scored by.
        store: where the answers are kept.
    """

    def __init__(
        self,
        model: SafeModel,
        encoder: Collator,
        vl_rows: Sequence[Example],
        audio_rows: Sequence[Example],
        base: BaseAnswers,
        settings: EvaluationSettings,
        seed: int,
        processes: Processes = ALONE,
        *,
        text_rows: Sequence[Example] = (),
        lengths: AnswerLengths | None = None,
        audio_metric: str | None = None,
    ) -> None:
        self.model, self.encoder, self.settings = model, encoder, settings
        self.vl_rows, self.audio_rows, self.base = list(vl_rows), list(audio_rows), base
        self.text_rows = list(text_rows)
        self.lengths = lengths or answer_lengths(settings, encoder, vl_rows, text_rows, audio_rows)
        self.audio_metric = audio_metric or resolve_audio_metric(settings.audio_metric, audio_rows)
        self.processes = processes
        self.store: PredictionStore | NoStore = NoStore(processes)
        self.distractors = Distractors(audio_rows, seed)
        self._protected = SafeRetentionModel(model)

    def run(
        self, progress: Callable[[str], None] = lambda _condition: None, conditions: Selection | None = None
    ) -> Evaluation:
        """Runs the conditions, by default those of the settings; ``progress`` is told before each and may end it."""
        start = time.perf_counter()
        conditions = conditions or select(self.settings.conditions)
        vl: dict[str, list[Prediction]] = {}
        text: dict[str, list[Prediction]] = {}
        audio: dict[str, list[Prediction]] = {}
        for name in conditions.vl:
            progress(f"VL, {name}")
            vl[name] = self.vl_predictions(name)
        for name in conditions.text if self.text_rows else ():
            progress(f"text, {name}")
            text[name] = self.text_predictions(name)
        for name in conditions.audio:
            progress(f"audio, {name}")
            audio[name] = self.audio_predictions(name)
        return summarize(
            self.base.samples,
            vl,
            audio,
            self.vl_rows,
            self.audio_rows,
            margin=self.settings.margin,
            seconds=time.perf_counter() - start,
            with_captions=self.settings.caption_metrics,
            base_text=self.base.text,
            text=text,
            text_rows=self.text_rows,
            audio_metric=self.audio_metric,
        )

    def vl_predictions(self, name: str) -> list[Prediction]:
        """The answers to the VL rows under a condition, draw after draw."""
        condition = VL_CONDITIONS[name]

        def answer(rows: Sequence[Example]) -> list[Prediction]:
            samples = self._generate(rows, condition, self.lengths.vl)
            with torch.no_grad():
                return self._with_divergence(samples, rows) if condition.attach else self._with_digests(samples, rows)

        return self._at_gate("vl", name, condition, self.vl_rows, answer)

    def text_predictions(self, name: str) -> list[Prediction]:
        """The answers to the text-only questions, and the bits of the documents, under a condition on VL rows."""
        condition = VL_CONDITIONS[name]

        def answer(rows: Sequence[Example]) -> list[Prediction]:
            samples = self._generate(rows, condition, self.lengths.text)
            with torch.no_grad():
                if condition.attach:
                    return self._with_divergence(samples, rows)
                return self._with_state_digests(samples, rows)

        def read(rows: Sequence[Example]) -> list[Prediction]:
            with torch.no_grad():
                return self._read(rows, condition)

        both = by_form(self.text_rows, answer, read, collective_forward=self.processes.collective_forward)
        return self._at_gate("text", name, condition, self.text_rows, both)

    def audio_predictions(self, name: str) -> list[Prediction]:
        """The answers to the audio rows under a condition."""
        condition = AUDIO_CONDITIONS[name]

        def answer(rows: Sequence[Example]) -> list[Prediction]:
            return [
                replace(
                    sample,
                    score=exact_match(sample.answer, row.answers),
                    token_f1=token_f1(sample.answer, row.answers),
                )
                for sample, row in zip(self._generate(rows, condition, self.lengths.audio), rows, strict=True)
            ]

        return self._at_gate("audio", name, condition, self.audio_rows, answer)

    def _at_gate(
        self, kind: Kind, name: str, condition: Condition, rows: Sequence[Example], answer: Answer
    ) -> list[Prediction]:
        """All samples of a condition, draw after draw, with the model's gate scaled by the condition's."""
        gate = self.model.gate
        self.model.gate = gate * condition.gate
        samples: list[Prediction] = []
        try:
            for draw in range(condition.draws):
                drawn = condition.rows(rows, self.distractors, draw)
                found = self.store.complete(
                    kind, condition.stored_as(name, draw), drawn, answer, self.settings.batch_size
                )
                samples += [replace(sample, draw=draw) for sample in found]
        finally:
            self.model.gate = gate
        return samples

    def _generate(self, rows: Sequence[Example], condition: Condition, max_new_tokens: int) -> list[Prediction]:
        """Answers and what the fusion did; a row without a clip hears silence if audio is attached."""
        statistics = self.model.statistics = FusionStatistics()
        prompts = self.encoder.prompt_batch(rows).inputs
        features = self.encoder.features_of(rows) if condition.attach else None
        options: dict[str, Any] = {"max_new_tokens": max_new_tokens}
        if self.processes.collective_forward:
            options["stopping_criteria"] = [_EndOfRecord(self.model, prompts["input_ids"].shape[1])]
        generated = self.model.generate(prompts, features, **options)
        self.model.statistics = None
        updates = statistics.updates() or [()] * len(rows)
        return [
            Prediction(
                row_id=row.row_id,
                answer=text,
                score=vqa_accuracy(text, row.answers, normalize_unanimous=True),
                ended=ended,
                heard=describe(row.audio) if condition.attach else None,
                updates=update,
                fusion_calls=sum(statistics.calls.values()),
            )
            for row, text, ended, update in zip(
                rows,
                self.encoder.decode(generated),
                ends(generated, self.model.base, max_new_tokens),
                updates,
                strict=True,
            )
        ]

    def _with_divergence(self, samples: list[Prediction], rows: Sequence[Example]) -> list[Prediction]:
        """The samples with each row's mean KL from the bypass over its reference answer's tokens."""
        batch = replace(self.encoder.training_batch(rows), features=self.encoder.features_of(rows))
        teacher = self._protected.teacher(batch)  # first: the student's pass goes on from what it computed
        return self._diverged(samples, self._protected.student(batch).hidden, teacher, batch)

    def _diverged(self, samples: list[Prediction], student: Tensor, teacher: Tensor, batch: Batch) -> list[Prediction]:
        """The samples with the mean KL over each row's tokens, from the hidden states [N, H] that predict them."""
        head = self._protected.head
        divergences = linear_kl_divergence(
            student, teacher, head.weight, head_bias=head.bias, logit_softcap=head.logit_softcap, reduction="none"
        )
        sums = torch.zeros(batch.num_rows, device=divergences.device).index_add_(
            0, batch.token_rows, divergences.float()
        )
        counts = torch.bincount(batch.token_rows, minlength=batch.num_rows).tolist()
        return [
            replace(sample, kl=total / count, tokens=count)
            for sample, total, count in zip(samples, sums.tolist(), counts, strict=True)
        ]

    def _read(self, rows: Sequence[Example], condition: Condition) -> list[Prediction]:
        """Documents by teacher forcing: bits, divergence from the bypass, and what the fusion did."""
        batch = self.encoder.training_batch(rows)
        if not condition.attach:
            return document_predictions(self.model.base, rows, batch, self.model.last_hidden_state(batch.inputs, None))
        batch = replace(batch, features=self.encoder.features_of(rows))
        teacher = self._protected.teacher(batch)
        statistics = self.model.statistics = FusionStatistics()
        student = self._protected.student(batch).hidden
        self.model.statistics = None
        updates = statistics.updates() or [()] * len(rows)
        samples = [
            Prediction(
                row_id=row.row_id,
                answer="",
                score=0.0,
                heard=describe(row.audio),
                updates=update,
                fusion_calls=sum(statistics.calls.values()),
                bits=bits,
                num_bytes=num_bytes(row),
            )
            for row, update, bits in zip(rows, updates, bits_by_row(self._protected.head, student, batch), strict=True)
        ]
        return self._diverged(samples, student, teacher, batch)

    def _with_digests(self, samples: list[Prediction], rows: Sequence[Example]) -> list[Prediction]:
        """The samples with the digest of each row's logits in the bypass."""
        with self.model.bypass():
            logits = self.model.base.model(**self.encoder.training_batch(rows).inputs, use_cache=False).logits
        return [replace(sample, logits_sha256=digest) for sample, digest in zip(samples, digests(logits), strict=True)]

    def _with_state_digests(self, samples: list[Prediction], rows: Sequence[Example]) -> list[Prediction]:
        """The same of text-only questions, for which no logits were ever kept otherwise: a few tokens at a time."""
        inputs = self.encoder.training_batch(rows).inputs
        hidden = self.model.last_hidden_state(inputs, None)
        found = state_digests(self.model.base.head, hidden, inputs["attention_mask"])
        return [replace(sample, logits_sha256=digest) for sample, digest in zip(samples, found, strict=True)]


class _EndOfRecord(StoppingCriteria):
    """Ends the record of the fusion's work with a batch's last answer, and stops nothing.

    Processes that run in step go on with forward passes until all have ended; these are no part of an answer.
    """

    def __init__(self, model: SafeModel, prompt_length: int) -> None:
        self.model, self.prompt_length = model, prompt_length

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Any:
        ended = ended_rows(input_ids[:, self.prompt_length :], self.model.base)
        if ended.all():
            self.model.statistics = None
        return torch.zeros_like(ended)
