"""Stage A of several configurations on one base, for measurements that compare their steps."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from safe_train.config import StageAConfig, build_config
from safe_train.embedded.dataset import DatasetSizes, write_dataset
from safe_train.model.base import Base
from safe_train.model.batch import Batch
from safe_train.model.retention_model import SafeRetentionModel
from safe_train.training.build import attach, build_batches, load_examples
from safe_train.training.trainer import StageATrainer

SIZES = DatasetSizes(train_questions=64, val_questions=20, train_clips=64, val_clips=12)


def data_folder(root: Path) -> Path:
    """Few rows of the procedural data."""
    if not root.exists():
        write_dataset(root, SIZES)
    return root


def configuration(data: Path, **settings: Any) -> StageAConfig:
    """A configuration whose mechanisms are all calibrated within the first steps; ``__`` stands for the dot."""
    defaults = {
        "device": "cpu",
        "data.root": data,
        "data.silence_prob": 0,
        "optimization.max_steps": 400,
        "retention.fisher_start_ratio": 0.0025,
        "retention.fisher_samples": 8,
        "retention.null_space_min_samples": 8,
    }
    changes = {key.replace("__", "."): value for key, value in settings.items()}
    return build_config({}, {key: str(value) for key, value in (defaults | changes).items()})


def stage_on(base: Base, config: StageAConfig) -> StageATrainer:
    """Stage A on a base that others may be attached to as well: only who has audio attached changes anything."""
    model = attach(base, config)
    return StageATrainer(
        config,
        model,
        build_batches(config, model, load_examples(config)),
    )


class UnsharedModel(SafeRetentionModel):
    """Student and teacher in two whole passes, as before the shared prefix."""

    @torch.no_grad()
    def teacher(self, batch: Batch) -> Tensor:
        """Hidden states in the bypass."""
        return self.model.last_hidden_state(batch.inputs, None)[batch.token_rows, batch.token_positions]


def train_on_vl_rows(stage: StageATrainer) -> None:
    """Forward and backward pass of the next step's protected rows under plain cross-entropy."""
    for batch in stage.batches.for_calibration(stage.step, stage.batches.retention_examples_per_step):
        hidden = stage.model.last_hidden_state(batch.inputs, batch.features)
        logits = stage.model.base.head(hidden[batch.token_rows, batch.token_positions])
        torch.nn.functional.cross_entropy(logits, batch.labels).backward()


def cpu_seconds(arms: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU time of each function, ``rounds`` times, one after the other in an order that rotates.

    CPU time of one thread, since other programs on the machine stretch wall time; the cache and the memory they share
    with it, they still disturb.
    """
    names = list(arms)
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.process_time()
            arms[name]()
            found[name].append(time.process_time() - start)
    return found


def step_seconds(arms: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Time of each function, as :func:`cpu_seconds` on a CPU; on a GPU from an idle device to an idle device.

    On a GPU after a call of each that is not timed: the first one chooses and loads kernels.
    """
    if device.type == "cpu":
        return cpu_seconds(arms, rounds)
    for arm in arms.values():
        arm()
    found: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            torch.cuda.synchronize(device)
            start = time.perf_counter()
            arm()
            torch.cuda.synchronize(device)
            found[name].append(time.perf_counter() - start)
    return found


def step_parts(stage: StageATrainer, rounds: int) -> dict[str, float]:
    """Seconds of each part of a step, of the round that takes the median, with the device idle before and after each.

    ``data`` encodes rows (files, processor, audio encoder); ``audio pass`` and ``protected pass`` are the forward and
    backward passes of the two kinds of rows, the second with the teacher's pass and the divergence; ``mechanisms`` is
    what retention does to gradients and weights; ``together`` is the whole step, in which the device waits between
    the parts.
    """
    device = stage.model.base.model.device
    spent: dict[str, float] = {}

    def timed(part: Callable[..., str], function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            _settle(device)
            start = time.perf_counter()
            result = function(*arguments, **named)
            _settle(device)
            name = part(*arguments)
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - start
            return result

        return call

    def is_audio(_batches: object, loss_of: object) -> str:
        return "audio pass" if loss_of == stage._task_loss else "protected pass"

    hooks = ("after_task_backward", "after_retention_backward", "before_optimizer_step", "after_optimizer_step")
    parts: list[tuple[Any, str, Callable[..., str]]] = [
        (stage.batches, "at", lambda *_: "data"),
        (stage, "_backward", is_audio),
        (stage.optimizer, "step", lambda *_: "optimizer"),
        *((stage.retention, hook, lambda *_: "mechanisms") for hook in hooks),
    ]
    found: list[dict[str, float]] = []
    with ExitStack() as patches:
        for owner, name, part in parts:
            patches.enter_context(patch.object(owner, name, timed(part, getattr(owner, name))))
        step = timed(lambda *_: "together", lambda: stage.train_step(measure=False))
        for _ in range(rounds):
            spent.clear()
            step()
            found.append(dict(spent))
    return sorted(found, key=lambda parts: parts["together"])[len(found) // 2]


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_ratio(numerator: list[float], denominator: list[float]) -> tuple[float, float]:
    """Median over rounds of the ratio within a round, and half the distance of its quartiles."""
    ratios = [a / b for a, b in zip(numerator, denominator, strict=True)]
    first, _, third = statistics.quantiles(ratios, n=4)
    return statistics.median(ratios), (third - first) / 2
