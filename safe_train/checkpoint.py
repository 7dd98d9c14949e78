"""Checkpoints: safetensors and JSON with checksums, complete or absent, from which a run goes on with the same bits.

``checkpoints/step-<step>/`` is a checkpoint. Beside it may lie, after a crash, ``.step-<step>.partial``, which was
being written or removed and counts for nothing, and ``.step-<step>.replaced``, which stands in for ``step-<step>`` if
the crash came between the two renames of a replacement.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from safe_train.errors import InputError
from safe_train.files import flush, json_text, read_object
from safe_train.model import SafeModel
from safe_train.model.safe_model import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from safe_train.retention import RetentionStack

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
MANIFEST = "manifest.json"
KEPT = 2

_STATE = "state.json"
_OPTIMIZER = "optimizer.safetensors"
_RETENTION = "retention.safetensors"
_FILES = (ADAPTER_WEIGHTS, ADAPTER_CONFIG, _OPTIMIZER, _RETENTION, _STATE)
_LISTED = re.compile(r"step-(\d+)|\.step-(\d+)\.replaced")
_WAY_OUT = "go back to an older checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk.

    Attributes:
        folder: where it lies.
        step: optimizer steps done.
    """

    folder: Path
    step: int


def save_checkpoint(
    root: Path,
    step: int,
    model: SafeModel,
    optimizer: torch.optim.Optimizer,
    stack: RetentionStack,
    *,
    keep: int = KEPT,
) -> Checkpoint:
    """Writes ``root/step-<step>``: all files in a staging folder, flushed to disk, then renamed.

    A crash at any moment leaves the previous checkpoint whole, and one that is replaced readable. The data order is a
    function of seed and step and needs no state. The newest ``keep`` up to this step stay.

    Raises:
        InputError: it cannot be written; what was begun is removed, older checkpoints stay.
    """
    staging = root / f".{_name(step)}.partial"
    try:
        _remove_leftovers(root)
        write_state(staging, step, model, optimizer, stack)
        folder = _put_in_place(staging, root / _name(step))
        older = [found for found in list_checkpoints(root) if found.step < step]
        for old in older[: max(0, len(older) - (keep - 1))]:
            _remove(old)
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
        shutil.rmtree(staging, ignore_errors=True)
        way_out = f"make room, then go on with: safe-train --resume {root.parent}"
        raise InputError(root, "room for a checkpoint", " ".join(str(error).split()), way_out) from error
    return Checkpoint(folder, step)


def write_state(
    folder: Path, step: int, model: SafeModel, optimizer: torch.optim.Optimizer, stack: RetentionStack
) -> None:
    """Writes everything that a run goes on from, and the checksums of the files, into a folder, flushed to disk.

    Raises:
        OSError: it cannot be written.
        SafetensorError: likewise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.save_adapter(folder)
    save_file(_optimizer_tensors(model, optimizer), folder / _OPTIMIZER)
    retention = {key: value.detach().cpu().contiguous() for key, value in stack.state_dict().items()}
    save_file(retention | {"torch_rng": torch.get_rng_state()}, folder / _RETENTION)
    (folder / _STATE).write_text(json_text({"step": step, "gate": model.gate}), encoding="utf-8")
    files = {name: _described(folder / name) for name in _FILES}
    (folder / MANIFEST).write_text(json_text({"files": files}), encoding="utf-8")
    for path in (*folder.iterdir(), folder):
        flush(path)


def list_checkpoints(root: Path) -> list[Checkpoint]:
    """The checkpoints, oldest first; whether their files are whole is not looked at."""
    found: dict[int, Path] = {}
    for folder in sorted(root.glob("*step-*")):  # a dot sorts before a letter: what is in place wins
        if match := _LISTED.fullmatch(folder.name):
            found[int(match[1] or match[2])] = folder
    return [Checkpoint(folder, step) for step, folder in sorted(found.items())]


def latest_checkpoint(run: Path) -> Checkpoint:
    """The newest checkpoint of a run whose files are those that were written; a damaged one is a warning.

    Raises:
        InputError: the run has none.
    """
    root = run / CHECKPOINTS
    damaged: InputError | None = None
    for checkpoint in reversed(list_checkpoints(root)):
        try:
            verify_files(checkpoint.folder)
        except InputError as error:
            logger.warning("%s", error)
            damaged = damaged or error
        else:
            return checkpoint
    if damaged is None:
        way_out = "start it again: it ended before its first checkpoint"
        raise InputError(run, "a run folder with a checkpoint", "none", way_out)
    got = f"damaged ones alone ({damaged.where}: expected {damaged.expected}, got {damaged.got})"
    raise InputError(root, "a checkpoint that is whole", got, "bring one back from a copy, or start the run again")


def set_aside_later(checkpoint: Checkpoint) -> None:
    """Renames the checkpoints of later steps, so that none is taken for the newest of a run that goes on from here.

    Raises:
        InputError: they cannot be renamed.
    """
    root = checkpoint.folder.parent
    for later in list_checkpoints(root):
        if later.step > checkpoint.step:
            target = root / f"set-aside-{_name(later.step)}"
            try:
                shutil.rmtree(target, ignore_errors=True)
                later.folder.rename(target)
            except OSError as error:
                raise InputError(later.folder, "a folder that can be renamed", str(error), "remove it") from error
            logger.warning("checkpoint of step %d set aside: %s", later.step, target)


def verify_files(folder: Path) -> None:
    """Compares the files of a checkpoint with its manifest: each one's size and SHA-256.

    Raises:
        InputError: a file is missing or is not what was written.
    """
    listed = _manifest(folder)
    for name in _FILES:
        path, expected = folder / name, listed.get(name)
        try:
            found = _described(path)
        except OSError as error:
            got = str(error.strerror or error)
            raise InputError(path, "a file of the checkpoint", got, _WAY_OUT) from error
        if found != expected:
            raise InputError(path, _words(expected), _words(found), _WAY_OUT)


def load_checkpoint(
    checkpoint: Checkpoint, model: SafeModel, optimizer: torch.optim.Optimizer, stack: RetentionStack
) -> None:
    """Puts model, optimizer, mechanisms and random numbers where they were.

    Raises:
        InputError: a file is missing or its tensors are those of another configuration.
    """
    model.load_adapter(checkpoint.folder)
    device = str(model.base.model.device)
    try:
        model.gate = _gate(checkpoint)
        moments = _loaded(checkpoint.folder / _OPTIMIZER, device)
        retention = _loaded(checkpoint.folder / _RETENTION, device)
        _restore_optimizer(model.trainable_parameters(), optimizer, moments)
        torch.set_rng_state(retention.pop("torch_rng").cpu())
        stack.load_state_dict(retention)
    except (KeyError, OSError, ValueError, SafetensorError) as error:
        way_out = "resume with the configuration that wrote it"
        raise InputError(checkpoint.folder, "a checkpoint of this configuration", str(error), way_out) from error


def _name(step: int) -> str:
    return f"step-{step:07d}"


def _put_in_place(staging: Path, folder: Path) -> Path:
    """Renames the complete staging folder; at any moment it or the one it replaces is listed."""
    replaced = staging.with_suffix(".replaced")
    if folder.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        folder.rename(replaced)
    staging.rename(folder)
    flush(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)
    return folder


def _remove(checkpoint: Checkpoint) -> None:
    """Takes the checkpoint out of the list before its files go."""
    doomed = checkpoint.folder.with_name(f".{_name(checkpoint.step)}.partial")
    checkpoint.folder.rename(doomed)
    shutil.rmtree(doomed)


def _remove_leftovers(root: Path) -> None:
    """Removes what a crash has left beside the checkpoints."""
    for partial in root.glob(".step-*.partial"):
        shutil.rmtree(partial)
    for replaced in root.glob(".step-*.replaced"):
        if (root / replaced.name[1:].removesuffix(".replaced")).exists():
            shutil.rmtree(replaced)


def _described(path: Path) -> dict[str, Any]:
    """Size and checksum of a file."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _loaded(path: Path, device: str) -> dict[str, Tensor]:
    """The tensors of a file, each in memory of its own.

    safetensors gives views of the file's bytes, which begin anywhere. Matrix products of such operands have other last
    bits than those of the run that wrote them.
    """
    return {name: tensor.clone() for name, tensor in load_file(path, device=device).items()}


def _gate(checkpoint: Checkpoint) -> float:
    """The gate that was set.

    Raises:
        ValueError: the files are those of another step than the folder's name says.
    """
    state = json.loads((checkpoint.folder / _STATE).read_text(encoding="utf-8"))
    if state["step"] != checkpoint.step:
        raise ValueError(f"the state of step {state['step']}")
    return state["gate"]


def _manifest(folder: Path) -> Mapping[str, Any]:
    """What the manifest says of each file."""
    path = folder / MANIFEST
    manifest = read_object(path, "the manifest of a checkpoint", _WAY_OUT)
    if not isinstance(manifest.get("files"), dict):
        raise InputError(path, "the manifest of a checkpoint", "JSON of another kind", _WAY_OUT)
    return manifest["files"]


def _words(described: Any) -> str:
    if not isinstance(described, dict) or set(described) != {"bytes", "sha256"}:
        return "a file that the manifest names"
    return f"{described['bytes']} bytes with SHA-256 {str(described['sha256'])[:16]}..."


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
