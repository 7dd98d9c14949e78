"""What a published adapter says of its run: a few figures of the evaluation, small enough for ``config.json``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from safe_train.errors import InputError
from safe_train.evaluation.conditions import BYPASS
from safe_train.evaluation.results import AnswerResult, DocumentResult
from safe_train.evaluation.validity import assess_validity
from safe_train.huggingface.data_names import data_names
from safe_train.metrics.intervals import Estimate
from safe_train.report.runs import Run, read_runs


def evaluated_run(folder: Path, step: int, weights_sha256: str) -> Run:
    """A finished run, if the evaluation that counts is that of its newest checkpoint.

    Args:
        folder: the run's folder.
        step: of the checkpoint.
        weights_sha256: digest of the checkpoint's trained parts.

    Raises:
        InputError: the run has no stored evaluation, or only one of another step or of other weights.
    """
    found = read_runs([folder])
    if not found.runs:
        reason = found.left_out[0].reason
        raise InputError(folder, "a run with stored answers", reason, f"evaluate it: safe eval {folder}")
    run = found.runs[0]
    key = run.evaluation.key
    expected, hint = "an evaluation of the newest checkpoint", f"evaluate it: safe eval {folder}"
    if key["step"] != step:
        raise InputError(folder, expected, f"one of step {key['step']}, and a checkpoint of step {step}", hint)
    if key["trained_parts_sha256"] != weights_sha256:
        raise InputError(folder, expected, f"one of other weights of step {step}", hint)
    return run


def retention_figures(run: Run) -> dict[str, Any]:
    """The figures of a run, from its evaluation that counts.

    Shares are in 0..1, intervals ``[mean, low, high]`` with 95 %, clustered by image or document. ``weights_sha256``
    says which weights they are of: :func:`~safe_train.io.fingerprints.tensors_sha256` over the trained parts.
    """
    result, key = run.evaluation.result, run.evaluation.key
    margin = result.vl[BYPASS.name].non_inferiority.margin
    equal = [
        r.bit_equal for part in (result.vl, result.text, result.documents) if (r := part.get(BYPASS.name)) is not None
    ]
    return {
        "weights_sha256": key["trained_parts_sha256"],
        "variant": run.config.variant,
        "seed": run.config.seed,
        "step": key["step"],
        "gate": key.get("gate", 1.0),
        "precision": key["precision"],
        "data": data_names(run),
        "margin": margin,
        "meaning": {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(assess_validity(result, margin=margin)).items()
        },
        "base_accuracy": _interval(result.base),
        "base_text_accuracy": _optional(result.base_text),
        "base_bits_per_byte": _optional(result.base_bits_per_byte),
        "bypass_bit_equal": all(equal),
        "vl": _answers(result.vl),
        "text": _answers(result.text),
        "documents": _documents(result.documents),
        "audio_metric": result.audio_metric,
        "audio": {
            name: {"rows": condition.rows, "accuracy": _interval(condition.accuracy)}
            for name, condition in result.audio.items()
        },
        "audio_gain": {name: _interval(gain) for name, gain in result.audio_gain.items()},
    }


def _answers(results: dict[str, AnswerResult]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "rows": condition.rows,
            "accuracy": _interval(condition.accuracy),
            "difference": _interval(condition.difference),
            "answer_change_rate": condition.answer_change_rate,
            "kl": condition.kl,
            "non_inferior": condition.non_inferiority.established,
            "is_measurement": condition.is_measurement,
        }
        for name, condition in results.items()
        if name != BYPASS.name
    }


def _documents(results: dict[str, DocumentResult]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "rows": condition.rows,
            "bits_per_byte": _interval(condition.bits_per_byte),
            "difference": _interval(condition.difference),
            "kl": condition.kl,
            "is_measurement": condition.is_measurement,
        }
        for name, condition in results.items()
        if name != BYPASS.name
    }


def _optional(estimate: Estimate | None) -> list[float] | None:
    return None if estimate is None else _interval(estimate)


def _interval(estimate: Estimate) -> list[float]:
    return [estimate.mean, estimate.low, estimate.high]
