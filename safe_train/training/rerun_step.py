"""Runs a kept step again: the same state, the same batches, no data set."""

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
from safe_train.training.build import attach, build_collator, load_base_model
from safe_train.training.failed_step import FOUND, batch_of
from safe_train.training.trainer import StageATrainer


@dataclass(frozen=True)
class RerunStep:
    """What a step gave when it was run again.

    Attributes:
        step: its number, from 1.
        losses: audio loss, retention loss and gradient norm.
        weights: trained parameters that were not finite before it.
    """

    step: int
    losses: dict[str, float]
    weights: list[str]

    @property
    def is_finite(self) -> bool:
        """Whether nothing is wrong this time."""
        return all(math.isfinite(value) for value in self.losses.values())


def replay(folder: Path) -> RerunStep:
    """Computes the losses and the gradient of a step that a run has kept.

    One process computes what several did together, rounding aside.

    Args:
        folder: ``RUN/non_finite/step-<step>``.

    Raises:
        InputError: the folder is not one of these, or a file in it is damaged.
    """
    path = folder / FOUND
    expected, hint = "a step kept for replay", "name a folder such as RUN/non_finite/step-0000012"
    found = read_object(path, expected, hint)
    try:
        step, weights = int(found["step"]), list(found["not_finite"]["weights"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(path, expected, " ".join(str(error).split()), hint) from error
    verify_files(folder)
    config = read_config(folder.absolute().parents[1])
    stage = _stage(config)
    load_checkpoint(Checkpoint(folder, step - 1), stage.model, stage.optimizer, stage.stack, as_found=True)
    stage.step = step - 1
    device = stage.model.base.model.device
    audio, vl = (_batches(folder, kind, str(device)) for kind in ("audio", "vl"))
    return RerunStep(step, stage.compute_gradient(audio, vl), weights)


def _stage(config: StageAConfig) -> StageATrainer:
    """The training of a run, without its rows."""
    model = attach(load_base_model(config), config)
    return StageATrainer(config, model, build_collator(model), ExampleSampler([], [], seed=config.seed, image_prob=0.0))


def _batches(folder: Path, kind: str, device: str) -> list[Batch]:
    paths = sorted(folder.glob(f"{kind}-*.safetensors"), key=lambda path: int(path.stem.partition("-")[2]))
    try:
        return [batch_of(load_file(path, device=device)) for path in paths]
    except (KeyError, OSError, SafetensorError) as error:
        raise InputError(folder, f"batches of {kind} rows", str(error), "train again, to meet it again") from error
