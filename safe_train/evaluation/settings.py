"""Settings of the evaluation."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from safe_train.metrics.registry import answer_metric_names
from safe_train.settings import Section


def _require_known_metric(name: str) -> str:
    known = ["auto", *answer_metric_names()]
    if name not in known:
        raise ValueError(f"{', '.join(map(repr, known[:-1]))} or {known[-1]!r}")
    return name


class EvaluationSettings(Section):
    """What is measured, and when."""

    earlier_names: ClassVar = {"every": "eval_steps"}

    eval_steps: int = Field(default=0, ge=0)
    """Steps between two evaluations on every tenth example; 0 evaluates at the end only."""
    max_vl: int | None = Field(default=None, ge=1)
    """VL examples of the validation split; None for all."""
    max_text: int | None = Field(default=None, ge=1)
    """Text-only examples of the validation split; None for all."""
    max_audio: int | None = Field(default=None, ge=1)
    """Audio examples of the validation split; None for all."""
    gate: float = Field(default=1.0, gt=0.0, le=1.0)
    """Gate at which SAFE is evaluated; conditions that set the gate scale it."""
    batch_size: int = Field(default=100, ge=1)
    """Examples per batch of generation."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """Longest answer in tokens; None for the length of the longest reference, at least 12 and at most 128."""
    audio_metric: Annotated[str, AfterValidator(_require_known_metric)] = "auto"
    """How answers to audio examples are scored: ``auto``, or a metric of ``safe_train.metrics.registry`` by its name;
    ``auto`` is exact match, but token F1 for captions in free words."""
    conditions: tuple[str, ...] = ("silence", "distractor", "loud")
    """Conditions that close a training run, or ``all``; the bypass and, on audio examples, matched clips always do."""
    caption_metrics: bool = False
    """Score captions by CIDEr-D, and by SPICE, FENSE and SPIDEr where they can run; needs the extra ``metrics``."""
    margin: float = Field(default=0.005, gt=0.0, lt=1.0)
    """Share of right answers whose loss is accepted: the margin of non-inferiority, declared before the measurement."""
