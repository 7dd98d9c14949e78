"""Runs a failed step again from its dump: the same state, the same batches, no data set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from safe_train.config import StageAConfig
from safe_train.data.sampler import ExampleSampler
from safe_train.errors import InputError
from safe_train.io.files import read_object
from safe_train.model.batch import Batch
from safe_train.runs.checkpoint import Checkpoint, load_checkpoint, verify_files
from safe_train.runs.layout import read_config
from safe_train.runs.recorded_variant import require_same_variant
from safe_train.training.batches import StepBatches
from safe_train.training.build import attach, build_collator, load_base_model
from safe_train.training.failed_step import FOUND, RETENTION, TASK
from safe_train.training.trainer import StageATrainer


@dataclass(frozen=True)
class RerunStep:
    """The result of running a step again.

    Attributes:
        step: its number, from 1.
        losses: task loss, retention loss and gradient norm.
        weights: trained parameters that were not finite before it.
    """

    step: int
    losses: dict[str, float]
    weights: list[str]

    @property
    def is_finite(self) -> bool:
        """Whether nothing is wrong this time."""
        return all(math.isfinite(value) for value in self.losses.values())


def rerun_step(folder: Path) -> RerunStep:
    """Computes the losses and the gradient of a step that a run has dumped.

    One process computes what several did together, rounding aside.

    Args:
        folder: ``RUN/non_finite/step-<step>``.

    Raises:
        InputError: the folder is not one of these, or a file in it is damaged.
    """
    path = folder / FOUND
    expected, hint = "the dump of a failed step", "name a folder such as RUN/non_finite/step-0000012"
    found = read_object(path, expected, hint)
    try:
        step, weights = int(found["step"]), list(found["not_finite"]["weights"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(path, expected, " ".join(str(error).split()), hint) from error
    verify_files(folder)
    run = folder.absolute().parents[1]
    config = read_config(run)
    require_same_variant(run, config)
    trainer = _trainer(config)
    load_checkpoint(Checkpoint(folder, step - 1), trainer.model, trainer.optimizer, trainer.retention, as_found=True)
    trainer.step = step - 1
    device = trainer.model.base.model.device
    task, retention = (_batches(folder, kind, str(device)) for kind in (TASK, RETENTION))
    return RerunStep(step, trainer.compute_gradient(task, retention), weights)


def _trainer(config: StageAConfig) -> StageATrainer:
    """The trainer of a run, without its examples."""
    model = attach(load_base_model(config), config)
    no_examples = ExampleSampler([], [], seed=config.seed, image_prob=0.0)
    return StageATrainer(config, model, StepBatches(config, build_collator(model), no_examples))


def _batches(folder: Path, kind: str, device: str) -> list[Batch]:
    paths = sorted(folder.glob(f"{kind}-*.safetensors"), key=lambda path: int(path.stem.partition("-")[2]))
    try:
        return [Batch.from_tensors(load_file(path, device=device)) for path in paths]
    except (KeyError, OSError, SafetensorError) as error:
        raise InputError(folder, f"batches of {kind} rows", str(error), "train again, to meet it again") from error
