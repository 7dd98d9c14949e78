"""Kills a process at each of its file operations in turn, while it writes a checkpoint.

Every operation that Python tells its audit hooks of (opening, renaming, making and removing files and folders) is one
moment, and so is the middle of each file that safetensors writes. A copy of this process (``fork``) runs up to the
moment and kills itself with SIGKILL; this one then looks at what lies on the disk.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import torch as safetensors_torch

from safe_train.config import build_config
from safe_train.io import tensor_files
from safe_train.runs import checkpoint as checkpoint_module
from safe_train.runs.checkpoint import latest_checkpoint, save_checkpoint
from safe_train.training.build import (
    attach,
    build_batches,
    load_base_model,
    load_examples,
)
from safe_train.training.trainer import StageATrainer

OPERATIONS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.scandir", "os.listdir"}


def build(settings: dict[str, str]) -> StageATrainer:
    config = build_config({}, settings)
    model = attach(load_base_model(config), config)
    return StageATrainer(config, model, build_batches(config, model, load_examples(config)))


def state_of(stage: StageATrainer) -> dict[str, torch.Tensor]:
    """Weights, the optimizer's moments and the mechanisms' state."""
    found = {f"weight/{name}": p.detach().clone() for name, p in stage.model.trainable_parameters().items()}
    for name, parameter in stage.model.trainable_parameters().items():
        for key, value in stage.optimizer.state.get(parameter, {}).items():
            found[f"{key}/{name}"] = torch.as_tensor(value).clone()
    return found | {f"state/{name}": value.clone() for name, value in stage.retention.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


class Fuse:
    """Kills this process at the k-th operation inside a folder."""

    def __init__(self, folder: Path, k: int) -> None:
        self.folder, self.left = str(folder), k

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in OPERATIONS and any(self.folder in str(argument) for argument in arguments[:2]):
            self.burn()

    def burn(self) -> None:
        self.left -= 1
        if self.left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def save_file(self, tensors: dict[str, torch.Tensor], path: Path, _metadata: object) -> None:
        """As safetensors does, with a moment at which half of the file is there."""
        whole = safetensors_torch.save(tensors)
        with path.open("wb") as file:
            file.write(whole[: len(whole) // 2])
            file.flush()
            self.burn()
            file.write(whole[len(whole) // 2 :])


def killed(action: Callable[[], object], folder: Path, k: int) -> bool:
    """Runs the action in a copy of this process that dies at operation k; False if it came to its end before."""
    child = os.fork()
    if child == 0:
        fuse = Fuse(folder, k)
        tensor_files.save_file = fuse.save_file  # type: ignore[assignment]
        sys.addaudithook(fuse.audit)
        action()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
    return os.WIFSIGNALED(status)


def main(folder: Path, settings: dict[str, str]) -> None:
    """Writes, for each case and moment, which checkpoint was found and whether it is the one that was written."""
    torch.set_num_threads(1)
    stage, fresh = build(settings), build(settings)
    states = {}
    for step in (1, 2, 3, 4):
        stage.train_step()
        states[step] = state_of(stage)
        save_checkpoint(folder / "made", step, stage.model, stage.optimizer, stage.retention, keep=9)

    def save(root: Path, step: int) -> Callable[[], object]:
        return lambda: save_checkpoint(root, step, stage.model, stage.optimizer, stage.retention)

    found: dict[str, list[list[Any]]] = {}
    for name, kept, step in (("first", [], 4), ("next", [2, 3], 4), ("replaced", [3], 3)):
        found[name] = []
        for k in range(1, 1000):
            run = folder / name
            shutil.rmtree(run, ignore_errors=True)
            for older in kept:
                shutil.copytree(folder / "made" / f"step-{older:07d}", run / "checkpoints" / f"step-{older:07d}")
            (run / "checkpoints").mkdir(parents=True, exist_ok=True)
            if not killed(save(run / "checkpoints", step), run / "checkpoints", k):
                break
            found[name].append(_what_is_there(run, fresh, states, step))
            save(run / "checkpoints", step)()  # the run goes on, and writes this checkpoint again
            found[name][-1].append(sorted(path.name for path in (run / "checkpoints").iterdir()))
    (folder / "found.json").write_text(json.dumps(found))


def _what_is_there(run: Path, fresh: StageATrainer, states: dict[int, Any], step: int) -> list[Any]:
    """The newest checkpoint that is whole, and whether its state is the one of its step."""
    if not (run / "checkpoints").is_dir() or not checkpoint_module.list_checkpoints(run / "checkpoints"):
        return [None, True]
    newest = latest_checkpoint(run)
    checkpoint_module.load_checkpoint(newest, fresh.model, fresh.optimizer, fresh.retention, as_found=True)
    found = state_of(fresh)
    # Step 3 is replaced by the state of step 4 under its name.
    return [newest.step, equal(found, states[newest.step]) or (step == 3 and equal(found, states[4]))]


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
