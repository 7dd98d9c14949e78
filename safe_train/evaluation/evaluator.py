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
from safe_train.config import EvaluationSettings
from safe_train.data.audio_input import describe
from safe_train.data.batch import RowEncoder
from safe_train.data.rows import Row
from safe_train.evaluation.base_answers import BaseAnswers, digests, ended_rows, ends
from safe_train.evaluation.conditions import (
    AUDIO_CONDITIONS,
    VL_CONDITIONS,
    Condition,
    Distractors,
    Selection,
    select,
)
from safe_train.evaluation.results import Evaluation, summarize
from safe_train.evaluation.samples import Answer, Kind, NoStore, Sample, SampleStore
from safe_train.metrics.text_overlap import token_f1
from safe_train.metrics.vqa_accuracy import exact_match, vqa_accuracy
from safe_train.model import SafeModel
from safe_train.model.safe_model import FusionStatistics
from safe_train.parallel import ALONE, Processes
from safe_train.protected import ProtectedSafeModel


class Evaluator:
    """Evaluates a model on fixed rows, alone or as one of several processes that share the batches.

    Attributes:
        model: SAFE.
        encoder: its row encoder, whose feature cache is shared with training.
        store: where the answers are kept.
    """

    def __init__(
        self,
        model: SafeModel,
        encoder: RowEncoder,
        vl_rows: Sequence[Row],
        audio_rows: Sequence[Row],
        base: BaseAnswers,
        settings: EvaluationSettings,
        seed: int,
        processes: Processes = ALONE,
    ) -> None:
        self.model, self.encoder, self.settings = model, encoder, settings
        self.vl_rows, self.audio_rows, self.base = list(vl_rows), list(audio_rows), base
        self.processes = processes
        self.store: SampleStore | NoStore = NoStore(processes)
        self.distractors = Distractors(audio_rows, seed)
        self._protected = ProtectedSafeModel(model)

    def read_audio_rows(self) -> None:
        """Reads every clip and image of the audio rows now; one that is damaged is then found before the training."""
        starts = range(0, len(self.audio_rows), self.settings.batch_size)
        with self.processes.together():
            for start in self.processes.share(starts):
                self.encoder.prompt_batch(self.audio_rows[start : start + self.settings.batch_size])

    def run(
        self, progress: Callable[[str], None] = lambda _condition: None, conditions: Selection | None = None
    ) -> Evaluation:
        """Runs the conditions, by default those of the settings; ``progress`` is told before each and may end it."""
        start = time.perf_counter()
        conditions = conditions or select(self.settings.conditions)
        vl: dict[str, list[Sample]] = {}
        audio: dict[str, list[Sample]] = {}
        for name in conditions.vl:
            progress(f"VL, {name}")
            vl[name] = self.vl_samples(name)
        for name in conditions.audio:
            progress(f"audio, {name}")
            audio[name] = self.audio_samples(name)
        return summarize(
            self.base.samples,
            vl,
            audio,
            self.vl_rows,
            self.audio_rows,
            margin=self.settings.margin,
            seconds=time.perf_counter() - start,
            with_captions=self.settings.caption_metrics,
        )

    def vl_samples(self, name: str) -> list[Sample]:
        """The answers to the VL rows under a condition, draw after draw."""
        condition = VL_CONDITIONS[name]

        def answer(rows: Sequence[Row]) -> list[Sample]:
            samples = self._generate(rows, condition)
            with torch.no_grad():
                return self._with_divergence(samples, rows) if condition.attach else self._with_digests(samples, rows)

        return self._at_gate("vl", name, condition, self.vl_rows, answer)

    def audio_samples(self, name: str) -> list[Sample]:
        """The answers to the audio rows under a condition."""
        condition = AUDIO_CONDITIONS[name]

        def answer(rows: Sequence[Row]) -> list[Sample]:
            return [
                replace(
                    sample,
                    score=exact_match(sample.answer, row.answers),
                    token_f1=token_f1(sample.answer, row.answers),
                )
                for sample, row in zip(self._generate(rows, condition), rows, strict=True)
            ]

        return self._at_gate("audio", name, condition, self.audio_rows, answer)

    def _at_gate(
        self, kind: Kind, name: str, condition: Condition, rows: Sequence[Row], answer: Answer
    ) -> list[Sample]:
        """All samples of a condition, draw after draw, with the model's gate scaled by the condition's."""
        gate = self.model.gate
        self.model.gate = gate * condition.gate
        samples: list[Sample] = []
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

    def _generate(self, rows: Sequence[Row], condition: Condition) -> list[Sample]:
        """Answers and what the fusion did; a row without a clip hears silence if audio is attached."""
        statistics = self.model.statistics = FusionStatistics()
        prompts = self.encoder.prompt_batch(rows).inputs
        features = self.encoder.features_of(rows) if condition.attach else None
        options: dict[str, Any] = {"max_new_tokens": self.settings.max_new_tokens, "do_sample": False}
        if self.processes.in_step:
            options["stopping_criteria"] = [_EndOfRecord(self.model, prompts["input_ids"].shape[1])]
        generated = self.model.generate(prompts, features, **options)
        self.model.statistics = None
        updates = statistics.updates() or [()] * len(rows)
        return [
            Sample(
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
                ends(generated, self.model.base, self.settings.max_new_tokens),
                updates,
                strict=True,
            )
        ]

    def _with_divergence(self, samples: list[Sample], rows: Sequence[Row]) -> list[Sample]:
        """The samples with each row's mean KL from the bypass over its reference answer's tokens."""
        batch = replace(self.encoder.training_batch(rows), features=self.encoder.features_of(rows))
        teacher = self._protected.teacher(batch)  # first: the student's pass goes on from what it computed
        head = self._protected.head
        divergences = linear_kl_divergence(
            self._protected.student(batch).hidden,
            teacher,
            head.weight,
            head_bias=head.bias,
            logit_softcap=head.logit_softcap,
            reduction="none",
        )
        sums = torch.zeros(len(rows), device=divergences.device).index_add_(0, batch.token_rows, divergences.float())
        counts = torch.bincount(batch.token_rows, minlength=len(rows)).tolist()
        return [
            replace(sample, kl=total / count, tokens=count)
            for sample, total, count in zip(samples, sums.tolist(), counts, strict=True)
        ]

    def _with_digests(self, samples: list[Sample], rows: Sequence[Row]) -> list[Sample]:
        """The samples with the digest of each row's logits in the bypass."""
        with self.model.bypass():
            logits = self.model.base.model(**self.encoder.training_batch(rows).inputs, use_cache=False).logits
        return [replace(sample, logits_sha256=digest) for sample, digest in zip(samples, digests(logits), strict=True)]


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
