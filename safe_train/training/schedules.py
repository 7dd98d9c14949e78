"""Schedules of the learning rates and the gate."""

from __future__ import annotations

import math

from safe_train.training.settings import OptimizationSettings


def learning_rate_schedule(step: int, settings: OptimizationSettings) -> float:
    """Factor on the peak learning rates: linear warm-up, then a half cosine down to zero at ``max_steps``."""
    warmup = max(1, round(settings.warmup_ratio * settings.max_steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, settings.max_steps - warmup)))


def gate_schedule(step: int, settings: OptimizationSettings) -> float:
    """The gate during a step: opens linearly from 0 to 1 and stays there."""
    warmup = round(settings.gate_warmup_ratio * settings.max_steps)
    return 1.0 if step >= warmup else (step + 1) / (warmup + 1)
