"""Evaluates a model under each condition and stores every answer."""

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
from safe_train.evaluation.answer_lengths import AnswerLengths, answer_lengths
from safe_train.evaluation.audio_metric import add_metrics, resolve_audio_metric
from safe_train.evaluation.base_answers import BaseAnswers, document_predictions, ends, find_ended, hash_logits
from safe_train.evaluation.conditions import Condition, Selection, find_condition, select
from safe_train.evaluation.distractors import Distractors
from safe_train.evaluation.predictions import Answer, Kind, NoStore, Prediction, PredictionStore
from safe_train.evaluation.results import Evaluation
from safe_train.evaluation.settings import EvaluationSettings
from safe_train.evaluation.summarize import summarize
from safe_train.evaluation.teacher_passes import KeptTeacher
from safe_train.evaluation.text_examples import answer_by_form, bits_by_row, hash_states, num_bytes
from safe_train.metrics.vqa_accuracy import vqa_accuracy
from safe_train.model.batch import Batch
from safe_train.model.retention_model import SafeRetentionModel
from safe_train.model.safe_model import FusionStatistics, SafeModel


class Evaluator:
    """Evaluates a model on fixed examples, in one process or as one of several that share the batches.

    Attributes:
        model: SAFE.
        encoder: its collator, whose feature cache is shared with training.
        vl_rows: VL examples.
        text_rows: text-only examples, questions and documents.
        audio_rows: audio examples.
        base: the base's answers to the VL examples and the text-only examples.
        lengths: maximum answer lengths.
        audio_metric: the metric of captions.
        store: where the answers are stored.
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
        # Processes in a collective forward run the same passes, so none may leave one out that it has kept.
        self._retention_model = SafeRetentionModel(model) if processes.collective_forward else KeptTeacher(model)

    def run(
        self, progress: Callable[[str], None] = lambda _condition: None, conditions: Selection | None = None
    ) -> Evaluation:
        """Runs the conditions, by default those of the settings; ``progress`` is called before each and may end it."""
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
            text_examples=self.text_rows,
            audio_metric=self.audio_metric,
        )

    def vl_predictions(self, name: str) -> list[Prediction]:
        """The answers to the VL examples under a condition, draw after draw."""
        condition = find_condition(name)

        def answer(examples: Sequence[Example]) -> list[Prediction]:
            predictions = self._generate(examples, condition, self.lengths.vl)
            with torch.no_grad():
                if condition.attach:
                    return self._add_divergence(predictions, examples)
                return self._add_digests(predictions, examples)

        return self._answer_all("vl", condition, self.vl_rows, answer)

    def text_predictions(self, name: str) -> list[Prediction]:
        """The answers to the text-only questions, and the bits of the documents, under a condition."""
        condition = find_condition(name)

        def answer(examples: Sequence[Example]) -> list[Prediction]:
            predictions = self._generate(examples, condition, self.lengths.text)
            with torch.no_grad():
                if condition.attach:
                    return self._add_divergence(predictions, examples)
                return self._add_state_digests(predictions, examples)

        def read(examples: Sequence[Example]) -> list[Prediction]:
            with torch.no_grad():
                return self._read(examples, condition)

        both = answer_by_form(self.text_rows, answer, read, collective_forward=self.processes.collective_forward)
        return self._answer_all("text", condition, self.text_rows, both)

    def audio_predictions(self, name: str) -> list[Prediction]:
        """The answers to the audio examples under a condition."""
        condition = find_condition(name)

        def answer(examples: Sequence[Example]) -> list[Prediction]:
            return add_metrics(self._generate(examples, condition, self.lengths.audio), examples)

        return self._answer_all("audio", condition, self.audio_rows, answer)

    def _answer_all(
        self, kind: Kind, condition: Condition, examples: Sequence[Example], answer: Answer
    ) -> list[Prediction]:
        """All predictions of a condition, draw after draw, with the model's gate scaled by the condition's."""
        gate = self.model.gate
        self.model.gate = gate * condition.gate
        predictions: list[Prediction] = []
        try:
            for draw in range(condition.draws):
                drawn = condition.playback(kind).examples(examples, self.distractors, draw)
                found = self.store.complete(kind, condition.stored_as(draw), drawn, answer, self.settings.batch_size)
                predictions += [replace(prediction, draw=draw) for prediction in found]
        finally:
            self.model.gate = gate
        return predictions

    def _generate(self, examples: Sequence[Example], condition: Condition, max_new_tokens: int) -> list[Prediction]:
        """Answers and what the fusion did; an example without a clip gets silent audio if audio is attached."""
        statistics = self.model.statistics = FusionStatistics()
        prompts = self.encoder.prompt_batch(examples).inputs
        features = self.encoder.features_of(examples) if condition.attach else None
        options: dict[str, Any] = {"max_new_tokens": max_new_tokens}
        if self.processes.collective_forward:
            options["stopping_criteria"] = [_EndOfRecord(self.model, prompts["input_ids"].shape[1])]
        generated = self.model.generate(prompts, features, **options)
        self.model.statistics = None
        updates = statistics.updates() or [()] * len(examples)
        return [
            Prediction(
                row_id=example.row_id,
                answer=text,
                score=vqa_accuracy(text, example.answers, normalize_unanimous=True),
                ended=ended,
                heard=describe(example.audio) if condition.attach else None,
                updates=update,
                fusion_calls=sum(statistics.calls.values()),
            )
            for example, text, ended, update in zip(
                examples,
                self.encoder.decode(generated),
                ends(generated, self.model.base, max_new_tokens),
                updates,
                strict=True,
            )
        ]

    def _add_divergence(self, predictions: list[Prediction], examples: Sequence[Example]) -> list[Prediction]:
        """The predictions with each example's mean KL from the bypass over its reference answer's tokens."""
        batch = replace(self.encoder.training_batch(examples), features=self.encoder.features_of(examples))
        teacher = self._retention_model.teacher(batch)  # first: the student's pass reuses what it computed
        return self._add_kl(predictions, self._retention_model.student(batch).hidden, teacher, batch)

    def _add_kl(
        self, predictions: list[Prediction], student: Tensor, teacher: Tensor, batch: Batch
    ) -> list[Prediction]:
        """The predictions with the mean KL over each example's tokens, from the states [N, H] that predict them."""
        head = self._retention_model.head
        divergences = linear_kl_divergence(
            student, teacher, head.weight, head_bias=head.bias, logit_softcap=head.logit_softcap, reduction="none"
        )
        sums = torch.zeros(batch.num_rows, device=divergences.device).index_add_(
            0, batch.token_rows, divergences.float()
        )
        counts = torch.bincount(batch.token_rows, minlength=batch.num_rows).tolist()
        return [
            replace(prediction, kl=total / count, tokens=count)
            for prediction, total, count in zip(predictions, sums.tolist(), counts, strict=True)
        ]

    def _read(self, examples: Sequence[Example], condition: Condition) -> list[Prediction]:
        """Documents by teacher forcing: bits, divergence from the bypass, and what the fusion did."""
        batch = self.encoder.training_batch(examples)
        if not condition.attach:
            hidden = self.model.last_hidden_state(batch.inputs, None)
            return document_predictions(self.model.base, examples, batch, hidden)
        batch = replace(batch, features=self.encoder.features_of(examples))
        teacher = self._retention_model.teacher(batch)
        statistics = self.model.statistics = FusionStatistics()
        student = self._retention_model.student(batch).hidden
        self.model.statistics = None
        updates = statistics.updates() or [()] * len(examples)
        found = bits_by_row(self._retention_model.head, student, batch)
        predictions = [
            Prediction(
                row_id=example.row_id,
                answer="",
                score=0.0,
                heard=describe(example.audio),
                updates=update,
                fusion_calls=sum(statistics.calls.values()),
                bits=bits,
                num_bytes=num_bytes(example),
            )
            for example, update, bits in zip(examples, updates, found, strict=True)
        ]
        return self._add_kl(predictions, student, teacher, batch)

    def _add_digests(self, predictions: list[Prediction], examples: Sequence[Example]) -> list[Prediction]:
        """The predictions with the digest of each example's logits in the bypass."""
        with self.model.bypass():
            logits = self.model.base.model(**self.encoder.training_batch(examples).inputs, use_cache=False).logits
        return _add_each(predictions, hash_logits(logits))

    def _add_state_digests(self, predictions: list[Prediction], examples: Sequence[Example]) -> list[Prediction]:
        """The same of text-only questions, for which no logits were ever kept otherwise: a few tokens at a time."""
        inputs = self.encoder.training_batch(examples).inputs
        hidden = self.model.last_hidden_state(inputs, None)
        found = hash_states(self.model.base.head, hidden, inputs["attention_mask"])
        return _add_each(predictions, found)


def _add_each(predictions: Sequence[Prediction], digests: Sequence[str]) -> list[Prediction]:
    return [replace(one, logits_sha256=digest) for one, digest in zip(predictions, digests, strict=True)]


class _EndOfRecord(StoppingCriteria):
    """Ends the fusion's statistics with a batch's last answer, without stopping generation.

    Processes in a collective forward run further passes until all have ended; those do not count towards an answer.
    """

    def __init__(self, model: SafeModel, prompt_length: int) -> None:
        self.model, self.prompt_length = model, prompt_length

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Any:
        ended = find_ended(input_ids[:, self.prompt_length :], self.model.base)
        if ended.all():
            self.model.statistics = None
        return torch.zeros_like(ended)
