"""What is kept of a step that met a loss or gradient that is not finite: enough to see it happen again.

``RUN/non_finite/step-<step>/`` holds the state before the step, in the files of a checkpoint, every micro-batch as
tensors, the rows that these were made of, and the names of the gradients and weights that are not finite.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from torch import Tensor

from safe_train.errors import InputError
from safe_train.io.files import json_text, staged_folder, write_text
from safe_train.io.tensor_files import save_tensors
from safe_train.model.audio.encoder import AudioFeatures
from safe_train.model.batch import Batch
from safe_train.runs.checkpoint import write_state
from safe_train.runs.layout import RunFolder

if TYPE_CHECKING:
    from safe_train.training.trainer import StageATrainer

FOUND = "found.json"
ROWS = "rows.json"

_INPUT, _FEATURES = "inputs/", "features/"
_COLUMNS = ("token_rows", "token_positions", "labels")


def dump_failed_step(stage: StageATrainer, run: Path) -> str:
    """Writes the step that was not taken; says in a few words where, or why it could not be written."""
    folder = RunFolder(run).failed_step(stage.step + 1)
    try:
        with staged_folder(folder) as staging:
            write_state(staging, stage.step, stage.model, stage.optimizer, stage.stack)
            rows = stage.step_rows()
            for kind, micro_batches in rows.items():
                for number, batch_rows in enumerate(micro_batches):
                    save_tensors(
                        batch_tensors(stage.encode(kind, batch_rows)), staging / f"{kind}-{number}.safetensors"
                    )
            described = {kind: [[asdict(row) for row in batch] for batch in batches] for kind, batches in rows.items()}
            write_text(staging / ROWS, json.dumps(described, indent=2, default=str, ensure_ascii=False) + "\n")
            write_text(staging / FOUND, json_text({"step": stage.step + 1, "not_finite": _not_finite(stage)}))
    except (InputError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
        return f"the step could not be kept for replay ({error})"
    return f"see it again with: safe replay {folder}"


def batch_tensors(batch: Batch) -> dict[str, Tensor]:
    """A batch as named tensors."""
    tensors = {_INPUT + name: value for name, value in batch.inputs.items()}
    tensors |= {name: getattr(batch, name) for name in _COLUMNS}
    for number, features in enumerate(batch.features or ()):
        tensors |= {f"{_FEATURES}{number}/values": features.values, f"{_FEATURES}{number}/mask": features.mask}
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def batch_of(tensors: Mapping[str, Tensor]) -> Batch:
    """The batch that ``batch_tensors`` has written."""
    count = sum(name.startswith(_FEATURES) for name in tensors) // 2
    features = tuple(
        AudioFeatures(tensors[f"{_FEATURES}{number}/values"], tensors[f"{_FEATURES}{number}/mask"])
        for number in range(count)
    )
    inputs = {name.removeprefix(_INPUT): value for name, value in tensors.items() if name.startswith(_INPUT)}
    token_rows, token_positions, labels = (tensors[name] for name in _COLUMNS)
    return Batch(inputs, features or None, token_rows, token_positions, labels)


def _not_finite(stage: StageATrainer) -> dict[str, list[str]]:
    """Names of the trained parameters whose weights, and of those whose gradients, are not finite."""
    parameters = stage.model.trainable_parameters()
    gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    return {
        "weights": [name for name, p in parameters.items() if not p.detach().isfinite().all()],
        "gradients": [name for name, gradient in gradients.items() if not gradient.isfinite().all()],
    }
