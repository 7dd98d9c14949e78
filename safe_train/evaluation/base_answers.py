"""What the untouched base says, taken before anything is attached to it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from safe_train.config import EvaluationSettings
from safe_train.data.batch import FeatureCache, RowEncoder
from safe_train.data.rows import Row
from safe_train.evaluation.samples import BASE, NoStore, Sample, SampleStore
from safe_train.metrics.vqa_accuracy import vqa_accuracy
from safe_train.model import Base


@dataclass(frozen=True)
class BaseAnswers:
    """One sample a VL row, in their order.

    Attributes:
        samples: answers, scores and digests of the logits.
    """

    samples: list[Sample]

    @property
    def answers(self) -> list[str]:
        """The answers alone."""
        return [sample.answer for sample in self.samples]

    @property
    def scores(self) -> list[float]:
        """VQA accuracy of each."""
        return [sample.score for sample in self.samples]


def base_answers(
    base: Base, rows: Sequence[Row], settings: EvaluationSettings, store: SampleStore | NoStore | None = None
) -> BaseAnswers:
    """Answers and logits of the base as it was loaded; call it before SAFE is attached."""
    encoder = RowEncoder(base.processor, FeatureCache([]), base.model.device)
    options = {"max_new_tokens": settings.max_new_tokens, "do_sample": False}

    @torch.no_grad()
    def answer(chunk: Sequence[Row]) -> list[Sample]:
        prompts = encoder.prompt_batch(chunk).inputs
        generated = base.model.generate(**prompts, **options)[:, prompts["input_ids"].shape[1] :]
        logits = base.model(**encoder.training_batch(chunk).inputs, use_cache=False).logits
        return [
            Sample(
                row_id=row.row_id,
                answer=text,
                score=vqa_accuracy(text, row.answers, normalize_unanimous=True),
                ended=ended,
                logits_sha256=digest,
            )
            for row, text, ended, digest in zip(
                chunk,
                encoder.decode(generated),
                ends(generated, base, settings.max_new_tokens),
                digests(logits),
                strict=True,
            )
        ]

    unheard = [Row(row.row_id, row.question, row.answers, row.image, None, row.kind, row.cluster) for row in rows]
    return BaseAnswers((store or NoStore()).complete("vl", BASE, unheard, answer, settings.batch_size))


def ends(generated: Tensor, base: Base, max_new_tokens: int) -> list[bool]:
    """For each row of ids [B, T], whether the answer came to an end before the longest length."""
    return (ended_rows(generated, base) | (generated.shape[1] < max_new_tokens)).tolist()


def ended_rows(generated: Tensor, base: Base) -> Tensor:
    """For each row of ids [B, T], whether a token that ends an answer is in it: bool [B]."""
    configured = base.model.generation_config.eos_token_id
    stops = configured if isinstance(configured, list) else [configured] if configured is not None else []
    return torch.isin(generated, torch.tensor(stops, dtype=generated.dtype, device=generated.device)).any(dim=1)


def digests(logits: Tensor) -> list[str]:
    """SHA-256 of each row's logits."""
    rows = logits.cpu().contiguous().view(torch.uint8).numpy()
    return [hashlib.sha256(row.tobytes()).hexdigest() for row in rows]
