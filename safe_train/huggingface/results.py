"""What a published adapter says of its run: a few figures of the evaluation, small enough for ``config.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safe_train.errors import InputError
from safe_train.metrics.intervals import Estimate
from safe_train.report.runs import Run, read_runs


def retention_figures(folder: Path, step: int) -> dict[str, Any]:
    """The figures of a finished run, from its evaluation with the most conditions.

    Shares are in 0..1, intervals ``[mean, low, high]`` with 95 %, clustered by image.

    Args:
        folder: the run's folder.
        step: of the checkpoint whose results they are to be.

    Raises:
        InputError: the run has no stored evaluation, or only one of another step.
    """
    found = read_runs([folder])
    if not found.runs:
        reason = found.left_out[0].reason
        raise InputError(folder, "a run with stored answers", reason, f"evaluate it: safe eval {folder}")
    run = found.runs[0]
    measured = run.evaluation.key["step"]
    if measured != step:
        got = f"one of step {measured}, and a checkpoint of step {step}"
        raise InputError(folder, "an evaluation of the newest checkpoint", got, f"evaluate it: safe eval {folder}")
    return _figures(run)


def _figures(run: Run) -> dict[str, Any]:
    result, data = run.evaluation.result, run.config.data
    return {
        "variant": run.config.variant,
        "seed": run.config.seed,
        "step": run.evaluation.key["step"],
        "data": {"vl": data.val_vl_source, "audio": data.val_audio_source, "split": data.val_split},
        "margin": run.config.evaluation.margin,
        "base_accuracy": _interval(result.base),
        "bypass_bit_equal": result.vl["bypass"].bit_equal,
        "vl": {
            name: {
                "rows": condition.rows,
                "accuracy": _interval(condition.accuracy),
                "difference": _interval(condition.difference),
                "kl": condition.kl,
                "non_inferior": condition.non_inferiority.established,
                "is_measurement": condition.is_measurement,
            }
            for name, condition in result.vl.items()
            if name != "bypass"
        },
        "audio": {
            name: {"rows": condition.rows, "accuracy": _interval(condition.accuracy)}
            for name, condition in result.audio.items()
        },
        "audio_gain": {name: _interval(gain) for name, gain in result.audio_gain.items()},
    }


def _interval(estimate: Estimate) -> list[float]:
    return [estimate.mean, estimate.low, estimate.high]
