"""Checkpoints: safetensors and JSON, complete or absent, from which a run goes on with the same bits."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from safe_train.errors import InputError
from safe_train.model import SafeModel
from safe_train.retention import RetentionStack

_STATE = "state.json"
_OPTIMIZER = "optimizer.safetensors"
_RETENTION = "retention.safetensors"
_KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk.

    Attributes:
        folder: where it lies.
        step: optimizer steps done.
    """

    folder: Path
    step: int


def save_checkpoint(
    root: Path, step: int, model: SafeModel, optimizer: torch.optim.Optimizer, stack: RetentionStack
) -> Checkpoint:
    """Writes ``root/step-<step>``: all files in a staging folder, flushed to disk, then one rename.

    A crash at any moment leaves the previous checkpoint whole. The data order is a function of seed and step and needs
    no state. The two newest checkpoints are kept.

    Raises:
        InputError: it cannot be written; what was begun is removed, older checkpoints stay.
    """
    staging = root / f".step-{step:07d}.partial"
    try:
        return _save_checkpoint(root, staging, step, model, optimizer, stack)
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
        shutil.rmtree(staging, ignore_errors=True)
        way_out = f"make room, then go on with: safe-train --resume {root.parent}"
        raise InputError(root, "room for a checkpoint", " ".join(str(error).split()), way_out) from error


def _save_checkpoint(
    root: Path, staging: Path, step: int, model: SafeModel, optimizer: torch.optim.Optimizer, stack: RetentionStack
) -> Checkpoint:
    folder = root / f"step-{step:07d}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    model.save_adapter(staging)
    save_file(_optimizer_tensors(model, optimizer), staging / _OPTIMIZER)
    retention = {key: value.detach().cpu().contiguous() for key, value in stack.state_dict().items()}
    save_file(retention | {"torch_rng": torch.get_rng_state()}, staging / _RETENTION)
    (staging / _STATE).write_text(json.dumps({"step": step, "gate": model.gate}) + "\n")
    for path in (*staging.iterdir(), staging):
        _flush(path)
    if folder.exists():
        shutil.rmtree(folder)
    staging.rename(folder)
    _flush(root)
    for old in list_checkpoints(root)[:-_KEPT]:
        shutil.rmtree(old.folder)
    return Checkpoint(folder, step)


def list_checkpoints(root: Path) -> list[Checkpoint]:
    """Complete checkpoints, oldest first."""
    folders = sorted(root.glob("step-*"))
    return [Checkpoint(folder, int(folder.name.removeprefix("step-"))) for folder in folders]


def latest_checkpoint(run: Path) -> Checkpoint:
    """The newest checkpoint of a run.

    Raises:
        InputError: the run has none.
    """
    checkpoints = list_checkpoints(run / "checkpoints")
    if not checkpoints:
        raise InputError(run, "a run folder with a checkpoint", "none", "name a run that got as far as its first one")
    return checkpoints[-1]


def load_checkpoint(
    checkpoint: Checkpoint, model: SafeModel, optimizer: torch.optim.Optimizer, stack: RetentionStack
) -> None:
    """Puts model, optimizer, mechanisms and random numbers where they were.

    Raises:
        InputError: a file is missing or its tensors are those of another configuration.
    """
    model.load_adapter(checkpoint.folder)
    model.gate = json.loads((checkpoint.folder / _STATE).read_text())["gate"]
    device = str(model.base.model.device)
    try:
        moments = load_file(checkpoint.folder / _OPTIMIZER, device=device)
        retention = load_file(checkpoint.folder / _RETENTION, device=device)
        _restore_optimizer(model.trainable_parameters(), optimizer, moments)
        torch.set_rng_state(retention.pop("torch_rng").cpu())
        stack.load_state_dict(retention)
    except (KeyError, OSError, SafetensorError) as error:
        way_out = "resume with the configuration that wrote it"
        raise InputError(checkpoint.folder, "a checkpoint of this configuration", str(error), way_out) from error


def _optimizer_tensors(model: SafeModel, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.trainable_parameters().items():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}/{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
    return tensors


def _restore_optimizer(
    parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    by_parameter: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind, name = key.split("/", 1)
        by_parameter.setdefault(name, {})[kind] = value.cpu() if kind == "step" else value
    for name, state in by_parameter.items():
        optimizer.state[parameters[name]] = state


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
