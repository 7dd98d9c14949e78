"""Settings of the evaluation."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from safe_train.settings import Section


class EvaluationSettings(Section):
    """What is measured, and when."""

    earlier_names: ClassVar = {"every": "eval_steps"}

    eval_steps: int = Field(default=0, ge=0)
    """Steps between two evaluations on every tenth row; 0 evaluates at the end only."""
    max_vl: int | None = Field(default=None, ge=1)
    """VL rows of the validation split; None for all."""
    max_text: int | None = Field(default=None, ge=1)
    """Text-only rows of the validation split; None for all."""
    max_audio: int | None = Field(default=None, ge=1)
    """Audio rows of the validation split; None for all."""
    gate: float = Field(default=1.0, gt=0.0, le=1.0)
    """Gate at which SAFE is evaluated; conditions that set the gate scale it."""
    batch_size: int = Field(default=100, ge=1)
    """Rows a batch of generation."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """Longest answer in tokens; None for the length of the longest reference, at least 12 and at most 128."""
    audio_metric: Literal["auto", "exact_match", "token_f1", "cider_d"] = "auto"
    """How answers to audio rows are scored; ``auto`` is exact match, but token F1 for captions in free words."""
    conditions: tuple[str, ...] = ("silence", "distractor", "loud")
    """Conditions that close a training run, or ``all``; the bypass and, on audio rows, matched clips always do."""
    caption_metrics: bool = False
    """Score captions by CIDEr-D, and by SPICE, SPIDEr and FENSE where they can run; needs the extra ``metrics``."""
    margin: float = Field(default=0.005, gt=0.0, lt=1.0)
    """Share of right answers whose loss is accepted: the margin of non-inferiority, declared before the measurement."""
