"""Checkpoints: safetensors and JSON with checksums, complete or absent, from which a run resumes with the same bits.

``checkpoints/step-<step>/`` is a checkpoint. A crash may leave ``.step-<step>.partial``, which was being written or
removed and is ignored, and ``.step-<step>.replaced``, which is used as ``step-<step>`` if the crash came between the
two renames of a replacement.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from safe_train.config import StageAConfig, current_settings
from safe_train.errors import InputError
from safe_train.io.files import flush, json_text, read_object
from safe_train.io.tensor_files import save_tensors
from safe_train.model.safe_model import ADAPTER_CONFIG, ADAPTER_WEIGHTS, SafeModel
from safe_train.retention import RetentionStack
from safe_train.runs.layout import RunFolder

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
KEPT = 2

_STATE = "state.json"
_OPTIMIZER = "optimizer.safetensors"
_RETENTION = "retention.safetensors"
_FILES = (ADAPTER_WEIGHTS, ADAPTER_CONFIG, _OPTIMIZER, _RETENTION, _STATE)
_SETTINGS = "settings"
_LISTED = re.compile(r"step-(\d+)|\.step-(\d+)\.replaced")
_PLACE = {"output_root", "label"}
"""Settings that say where a run lies: the checkpoints of one elsewhere are the same to the last bit."""

_MAY_CHANGE = (
    "device", "variants_file", "checkpoint_every", "checkpoint_keep", "log_every", "evaluation.", "parallel.",
    "tracking.", "data.num_workers", "data.prefetch_factor", "data.cache_", "data.val_", "model.gradient_checkpointing",
)  # fmt: skip
"""Begin of the settings on which no trained weight depends, but for rounding."""

_HINT = "go back to an older checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk.

    Attributes:
        folder: its folder.
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
    config: StageAConfig | None = None,
) -> Checkpoint:
    """Writes ``root/step-<step>``: all files in a staging folder, flushed to disk, then renamed.

    A crash at any moment leaves the previous checkpoint whole, and one that is replaced readable. The data order is a
    function of seed and step and needs no state. The newest ``keep`` up to this step stay. The settings of ``config``
    are kept, so that the run goes on with no others.

    Raises:
        InputError: it cannot be written; what was begun is removed, older checkpoints stay.
    """
    staging = root / f".{_name(step)}.partial"
    try:
        root.mkdir(exist_ok=True)  # and not its parents: a run's folder that was removed is not made again
        _remove_leftovers(root)
        write_state(staging, step, model, optimizer, stack, config)
        folder = _put_in_place(staging, root / _name(step))
        older = [found for found in list_checkpoints(root) if found.step < step]
        for old in older[: max(0, len(older) - (keep - 1))]:
            _remove(old)
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
        shutil.rmtree(staging, ignore_errors=True)
        again = f"resume with: safe-train --resume {root.parent}" if list_checkpoints(root) else "start the run again"
        raise InputError(
            root, "room for a checkpoint", " ".join(str(error).split()), f"make room, then {again}"
        ) from error
    return Checkpoint(folder, step)


def write_state(
    folder: Path,
    step: int,
    model: SafeModel,
    optimizer: torch.optim.Optimizer,
    stack: RetentionStack,
    config: StageAConfig | None = None,
) -> None:
    """Writes everything needed to resume, and the checksums of the files, into a folder, flushed to disk.

    Raises:
        OSError: it cannot be written.
        SafetensorError: likewise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.save_adapter(folder)
    save_tensors(_optimizer_tensors(model, optimizer), folder / _OPTIMIZER)
    retention = {key: value.detach().cpu().contiguous() for key, value in stack.state_dict().items()}
    save_tensors(retention | {"torch_rng": torch.get_rng_state()}, folder / _RETENTION)
    state: dict[str, Any] = {"step": step, "gate": model.gate}
    state |= {_SETTINGS: config.model_dump(mode="json", exclude=_PLACE)} if config is not None else {}
    (folder / _STATE).write_text(json_text(state), encoding="utf-8")
    files = {name: _describe(folder / name) for name in _FILES}
    (folder / MANIFEST).write_text(json_text({"files": files}), encoding="utf-8")
    for path in (*folder.iterdir(), folder):
        flush(path)


def list_checkpoints(root: Path) -> list[Checkpoint]:
    """The checkpoints, oldest first; their files are not checked."""
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
    root = RunFolder(run).checkpoints
    damaged: InputError | None = None
    for checkpoint in reversed(list_checkpoints(root)):
        try:
            verify_files(checkpoint.folder)
        except InputError as error:
            logger.warning("%s", error)
            damaged = damaged or error
        else:
            return checkpoint
    if not run.is_dir():
        raise InputError(run, "a run folder", "no such folder", "name one of runs/")
    if damaged is None:
        hint = "start it again: it ended before its first checkpoint"
        raise InputError(run, "a run folder with a checkpoint", "none", hint)
    got = f"damaged ones alone ({damaged.where}: expected {damaged.expected}, got {damaged.got})"
    raise InputError(root, "a checkpoint that is whole", got, "bring one back from a copy, or start the run again")


def set_aside_later(checkpoint: Checkpoint) -> None:
    """Renames the checkpoints of later steps, so that none is taken for the newest of a run that resumes from here.

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
            found = _describe(path)
        except OSError as error:
            got = str(error.strerror or error)
            raise InputError(path, "a file of the checkpoint", got, _HINT) from error
        if found != expected:
            raise InputError(path, _describe_expected(expected), _describe_expected(found), _HINT)


def require_settings(checkpoint: Checkpoint, config: StageAConfig, where: str | Path) -> None:
    """Finds out whether a run is to go on with the settings that its checkpoint was written with.

    Settings on which no trained weight depends may be others, which is logged as a warning. A checkpoint of an earlier
    version does not say what it was written with, and settings that it does not know are not compared.

    Raises:
        InputError: another setting is not the same: ``config.json`` was edited, or the checkpoint is another run's.
    """
    stored = _read_state(checkpoint.folder).get(_SETTINGS)
    if not isinstance(stored, dict):
        return
    now, then = (dict(_flatten(values)) for values in (config.model_dump(mode="json"), current_settings(stored)))
    differing = [key for key in now if key in then and now[key] != then[key]]
    words = [f"{key} {json.dumps(now[key])} in place of {json.dumps(then[key])}" for key in differing]
    refused = [told for key, told in zip(differing, words, strict=True) if not key.startswith(_MAY_CHANGE)]
    if refused:
        hint = "restore the file, or start a new run; where data have moved, put a link at their old place"
        raise InputError(where, f"the settings of {checkpoint.folder.name}", ", ".join(refused), hint)
    if words:
        logger.warning("%s was edited: %s", where, ", ".join(words))


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def load_checkpoint(
    checkpoint: Checkpoint,
    model: SafeModel,
    optimizer: torch.optim.Optimizer,
    stack: RetentionStack,
    *,
    as_found: bool = False,
) -> None:
    """Puts model, optimizer, mechanisms and random numbers where they were.

    Args:
        checkpoint: what is loaded.
        model: takes up the trained parts.
        optimizer: takes up its moments.
        stack: takes up the mechanisms' state.
        as_found: take up values, too, with which no training could go on, to see what they lead to.

    Raises:
        InputError: a file is missing or its tensors are those of another configuration.
    """
    model.load_adapter(checkpoint.folder)
    device = str(model.base.model.device)
    try:
        model.gate = _gate(checkpoint)
        moments = _load_tensors(checkpoint.folder / _OPTIMIZER, device)
        retention = _load_tensors(checkpoint.folder / _RETENTION, device)
        if not as_found:
            _require_moments(model.trainable_parameters(), moments, checkpoint.step)
            _require_finite(retention)
        _restore_optimizer(model.trainable_parameters(), optimizer, moments)
        random_numbers = retention.pop("torch_rng").cpu()
        stack.load_state_dict(retention)
        torch.set_rng_state(random_numbers)
    except (KeyError, OSError, TypeError, ValueError, RuntimeError, SafetensorError) as error:  # torch's has no class
        hint = "resume with the configuration that wrote it"
        raise InputError(checkpoint.folder, "a checkpoint of this configuration", str(error), hint) from error


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
    """Removes what a crash has left next to the checkpoints."""
    for partial in root.glob(".step-*.partial"):
        shutil.rmtree(partial)
    for replaced in root.glob(".step-*.replaced"):
        if (root / replaced.name[1:].removesuffix(".replaced")).exists():
            shutil.rmtree(replaced)


def _describe(path: Path) -> dict[str, Any]:
    """Size and checksum of a file."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _load_tensors(path: Path, device: str) -> dict[str, Tensor]:
    """The tensors of a file, each in memory of its own.

    safetensors gives views of the file's bytes, which begin anywhere. Matrix products of such operands have other last
    bits than those of the run that wrote them.
    """
    return {name: tensor.clone() for name, tensor in load_file(path, device=device).items()}


def _read_state(folder: Path) -> dict[str, Any]:
    return read_object(folder / _STATE, "the state of a checkpoint", _HINT)


def _gate(checkpoint: Checkpoint) -> float:
    """The gate that was set.

    Raises:
        ValueError: the files' step differs from the one in the folder's name.
    """
    state = _read_state(checkpoint.folder)
    if state["step"] != checkpoint.step:
        raise ValueError(f"the state of step {state['step']}")
    return state["gate"]


def _manifest(folder: Path) -> Mapping[str, Any]:
    """The manifest's entry for each file."""
    path = folder / MANIFEST
    manifest = read_object(path, "the manifest of a checkpoint", _HINT)
    if not isinstance(manifest.get("files"), dict):
        raise InputError(path, "the manifest of a checkpoint", "JSON of another kind", _HINT)
    return manifest["files"]


def _describe_expected(described: Any) -> str:
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


def _require_moments(parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor], steps: int) -> None:
    """Finds out whether the tensors are what AdamW has after so many steps with these parameters.

    Raises:
        ValueError: they are not.
    """
    kinds: dict[str, tuple[torch.Size, torch.dtype]] = {}
    for name, parameter in parameters.items() if steps else ():
        kinds[f"step/{name}"] = torch.Size(), torch.float32
        kinds |= dict.fromkeys((f"exp_avg/{name}", f"exp_avg_sq/{name}"), (parameter.shape, parameter.dtype))
    found = {key: (value.shape, value.dtype) for key, value in tensors.items()}
    if found != kinds:
        odd = next(key for key in [*kinds, *found] if kinds.get(key) != found.get(key))
        raise ValueError(f"other names, shapes or types of the optimizer's moments ({odd})")
    _require_finite(tensors)
    for key, value in tensors.items():
        if (key.startswith("step/") and value.item() != steps) or (key.startswith("exp_avg_sq/") and value.min() < 0):
            raise ValueError(f"a moment that AdamW cannot have after step {steps} ({key})")


def _require_finite(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"values that are not finite ({name})")
