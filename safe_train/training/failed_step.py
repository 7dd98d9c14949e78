"""Dumps a step with a loss or gradient that is not finite, so that it can be run again.

``RUN/non_finite/step-<step>/`` holds the state before the step, in the files of a checkpoint, every batch as
tensors, the examples that these were made of, and the names of the gradients and weights that are not finite.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor

from safe_train.errors import InputError
from safe_train.io.files import json_text, staged_folder, write_text
from safe_train.io.tensor_files import save_tensors
from safe_train.model.batch import Batch
from safe_train.model.safe_model import SafeModel
from safe_train.retention import RetentionStack
from safe_train.runs.checkpoint import write_state
from safe_train.runs.layout import RunFolder
from safe_train.training.batches import StepBatches

FOUND = "found.json"
ROWS = "rows.json"
TASK, RETENTION = "audio", "vl"
"""Kinds of batches, by which their files are named: ``audio-0.safetensors``."""


class FailedTraining(Protocol):
    """The interface of a trainer whose failed step is dumped."""

    step: int
    model: SafeModel
    optimizer: torch.optim.Optimizer
    retention: RetentionStack
    batches: StepBatches


def dump_failed_step(training: FailedTraining, run: RunFolder) -> str:
    """Writes the step that was not taken; returns in a few words where, or why it could not be written."""
    folder = run.failed_step(training.step + 1)
    try:
        with staged_folder(folder) as staging:
            write_state(staging, training.step, training.model, training.optimizer, training.retention)
            whole, examples = training.batches.whole(training.step), training.batches.examples(training.step)
            for kind, batches in ((TASK, whole.task), (RETENTION, whole.retention)):
                for number, batch in enumerate(batches):
                    save_tensors(batch_tensors(batch), staging / f"{kind}-{number}.safetensors")
            described = {
                kind: [[asdict(example) for example in micro_batch] for micro_batch in micro_batches]
                for kind, micro_batches in ((TASK, examples.task), (RETENTION, examples.retention))
            }
            write_text(staging / ROWS, json.dumps(described, indent=2, default=str, ensure_ascii=False) + "\n")
            found = {"step": training.step + 1, "not_finite": _not_finite(training.model.trainable_parameters())}
            write_text(staging / FOUND, json_text(found))
    except (InputError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
        return f"the step could not be dumped ({error})"
    return f"see it again with: safe rerun-step {folder}"


def batch_tensors(batch: Batch) -> dict[str, Tensor]:
    """A batch as named tensors to be written."""
    return {name: value.detach().cpu().contiguous() for name, value in batch.to_tensors().items()}


def _not_finite(parameters: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Names of the trained parameters whose weights, and of those whose gradients, are not finite."""
    gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    return {
        "weights": [name for name, p in parameters.items() if not p.detach().isfinite().all()],
        "gradients": [name for name, gradient in gradients.items() if not gradient.isfinite().all()],
    }
