"""Evaluation: the base's answers first, then SAFE's under each condition on the same rows in the same batches."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from safe_kernels import linear_kl_divergence
from safe_train.config import EvaluationSettings
from safe_train.data.batch import FeatureCache, RowEncoder
from safe_train.data.rows import Row, with_distractors
from safe_train.metrics.intervals import Estimate, cluster_bootstrap
from safe_train.metrics.vqa_accuracy import exact_match, vqa_accuracy
from safe_train.model import Base, SafeModel
from safe_train.model.safe_model import FusionStatistics
from safe_train.protected import ProtectedSafeModel

logger = logging.getLogger(__name__)

VL_CONDITIONS = ("bypass", "silence", "distractor")
AUDIO_CONDITIONS = ("matched", "silence", "distractor")


@dataclass(frozen=True)
class BaseAnswers:
    """What the untouched base says to the VL rows, taken before anything is attached to it.

    Attributes:
        answers: one a row.
        scores: VQA accuracy of each.
        logits_digest: SHA-256 of all logits of all rows with their reference answers, batch by batch.
    """

    answers: list[str]
    scores: list[float]
    logits_digest: str


@dataclass(frozen=True)
class VLResult:
    """One condition on VL rows; shares in 0..1.

    Attributes:
        condition: of ``VL_CONDITIONS``.
        accuracy: VQA accuracy with its interval.
        difference: accuracy minus the base's on the same rows, paired.
        answer_change_rate: share of rows answered otherwise than by the base.
        right_to_wrong: share of rows whose accuracy fell.
        wrong_to_right: share of rows whose accuracy rose.
        kl: mean over answer tokens of KL(base || SAFE) in nats.
        fusion_calls: times that a fusion layer changed hidden states; 0 makes the row no measurement of retention.
        relative_update: mean ratio of the fusion's update to the hidden states it is added to.
        bit_equal: for the bypass, whether logits and answers are the base's bit for bit; None elsewhere.
        by_kind: accuracy by question type.
    """

    condition: str
    accuracy: Estimate
    difference: Estimate
    answer_change_rate: float
    right_to_wrong: float
    wrong_to_right: float
    kl: float
    fusion_calls: int
    relative_update: float
    bit_equal: bool | None
    by_kind: dict[str, float]


@dataclass(frozen=True)
class AudioResult:
    """One condition on audio rows.

    Attributes:
        condition: of ``AUDIO_CONDITIONS``.
        accuracy: exact match with a reference, with its interval.
    """

    condition: str
    accuracy: Estimate


@dataclass(frozen=True)
class Evaluation:
    """All conditions.

    Attributes:
        base: accuracy of the untouched base on the VL rows.
        vl: results on VL rows by condition.
        audio: results on audio rows by condition.
        seconds: how long it took.
    """

    base: Estimate
    vl: dict[str, VLResult]
    audio: dict[str, AudioResult]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @property
    def audio_gain(self) -> float:
        """Audio accuracy with the matched clip minus that with silence."""
        return self.audio["matched"].accuracy.mean - self.audio["silence"].accuracy.mean

    @property
    def worst_vl_difference(self) -> Estimate:
        """The condition with audio attached that is furthest below the base."""
        differences = [result.difference for name, result in self.vl.items() if name != "bypass"]
        return min(differences, key=lambda estimate: estimate.mean)


def base_answers(base: Base, rows: Sequence[Row], settings: EvaluationSettings) -> BaseAnswers:
    """Answers and logits of the base as it was loaded; call it before SAFE is attached."""
    encoder = RowEncoder(base.processor, FeatureCache([]), base.model.device)
    answers: list[str] = []
    digest = hashlib.sha256()
    for chunk in _chunks(rows, settings.batch_size):
        prompts = encoder.prompt_batch(chunk).inputs
        with torch.no_grad():
            generated = base.model.generate(**prompts, max_new_tokens=settings.max_new_tokens, do_sample=False)
            digest.update(_bytes(base.model(**encoder.training_batch(chunk).inputs, use_cache=False).logits))
        answers += encoder.decode(generated[:, prompts["input_ids"].shape[1] :])
    return BaseAnswers(answers, _vqa_scores(answers, rows), digest.hexdigest())


class Evaluator:
    """Evaluates a model on fixed rows.

    Attributes:
        model: SAFE.
        encoder: its row encoder, whose feature cache is shared with training.
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
    ) -> None:
        self.model, self.encoder, self.settings = model, encoder, settings
        self.vl_rows, self.audio_rows, self.base = list(vl_rows), list(audio_rows), base
        self.protected = ProtectedSafeModel(model)
        clips = list(dict.fromkeys(row.audio for row in audio_rows if row.audio is not None))
        self._vl_distractors = with_distractors(vl_rows, clips, seed)
        self._audio_distractors = with_distractors(audio_rows, clips, seed)

    def read_audio_rows(self) -> None:
        """Reads every clip and image of the audio rows now; one that is damaged is then found before the training."""
        for chunk in _chunks(self.audio_rows, self.settings.batch_size):
            self.encoder.prompt_batch(chunk)

    def run(self, progress: Callable[[str], None] = lambda _condition: None) -> Evaluation:
        """Runs every condition."""
        start = time.perf_counter()
        vl: dict[str, VLResult] = {}
        audio: dict[str, AudioResult] = {}
        for condition in VL_CONDITIONS:
            progress(f"VL, {condition}")
            vl[condition] = self._vl(condition)
        for condition in AUDIO_CONDITIONS:
            progress(f"audio, {condition}")
            audio[condition] = self._audio(condition)
        clusters = [row.cluster for row in self.vl_rows]
        return Evaluation(cluster_bootstrap(self.base.scores, clusters), vl, audio, time.perf_counter() - start)

    def _vl(self, condition: str) -> VLResult:
        rows = self._vl_distractors if condition == "distractor" else self.vl_rows
        attach = condition != "bypass"
        answers, statistics = self._generate(rows, attach=attach)
        kl, digest = self._teacher_forced(rows, attach=attach)
        scores, base = _vqa_scores(answers, rows), self.base
        changes = [new - old for new, old in zip(scores, base.scores, strict=True)]
        clusters = [row.cluster for row in rows]
        by_kind: dict[str, list[float]] = defaultdict(list)
        for row, score in zip(rows, scores, strict=True):
            by_kind[row.kind].append(score)
        return VLResult(
            condition=condition,
            accuracy=cluster_bootstrap(scores, clusters),
            difference=cluster_bootstrap(changes, clusters),
            answer_change_rate=_mean([float(a != b) for a, b in zip(answers, base.answers, strict=True)]),
            right_to_wrong=_mean([float(change < 0) for change in changes]),
            wrong_to_right=_mean([float(change > 0) for change in changes]),
            kl=kl,
            fusion_calls=statistics.calls,
            relative_update=statistics.mean_relative_update,
            bit_equal=None if attach else (digest == base.logits_digest and answers == base.answers),
            by_kind={kind: _mean(values) for kind, values in sorted(by_kind.items())},
        )

    def _audio(self, condition: str) -> AudioResult:
        rows = {
            "matched": self.audio_rows,
            "silence": [_without_clip(row) for row in self.audio_rows],
            "distractor": self._audio_distractors,
        }[condition]
        answers, _ = self._generate(rows, attach=True)
        scores = [exact_match(answer, row.answers) for answer, row in zip(answers, rows, strict=True)]
        return AudioResult(condition, cluster_bootstrap(scores, [row.cluster for row in rows]))

    def _generate(self, rows: Sequence[Row], *, attach: bool) -> tuple[list[str], FusionStatistics]:
        """Answers, and what the fusion did; a row without a clip hears silence if ``attach`` is set."""
        answers: list[str] = []
        statistics = self.model.statistics = FusionStatistics()
        for chunk in _chunks(rows, self.settings.batch_size):
            batch = self.encoder.prompt_batch(chunk)
            features = self.encoder.features_of(chunk) if attach else None
            options = {"max_new_tokens": self.settings.max_new_tokens, "do_sample": False}
            answers += self.encoder.decode(self.model.generate(batch.inputs, features, **options))
        self.model.statistics = None
        return answers, statistics

    @torch.no_grad()
    def _teacher_forced(self, rows: Sequence[Row], *, attach: bool) -> tuple[float, str]:
        """Mean KL from the bypass over answer tokens and, for the bypass itself, the digest of all its logits."""
        total, tokens = 0.0, 0
        digest = hashlib.sha256()
        for chunk in _chunks(rows, self.settings.batch_size):
            batch = self.encoder.training_batch(chunk)
            if not attach:
                with self.model.bypass():
                    digest.update(_bytes(self.model.base.model(**batch.inputs, use_cache=False).logits))
                continue
            hidden = self.model.last_hidden_state(batch.inputs, self.encoder.features_of(chunk))
            head = self.protected.head
            total += linear_kl_divergence(
                hidden[batch.token_rows, batch.token_positions],
                self.protected.teacher(batch),
                head.weight,
                head_bias=head.bias,
                logit_softcap=head.logit_softcap,
                reduction="sum",
            ).item()
            tokens += len(batch.labels)
        return (total / tokens if tokens else 0.0), digest.hexdigest()


def _without_clip(row: Row) -> Row:
    return Row(row.row_id, row.question, row.answers, row.image, None, row.kind, row.cluster)


def _vqa_scores(answers: Sequence[str], rows: Sequence[Row]) -> list[float]:
    return [vqa_accuracy(answer, row.answers) for answer, row in zip(answers, rows, strict=True)]


def _chunks(rows: Sequence[Row], size: int) -> Iterator[Sequence[Row]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
