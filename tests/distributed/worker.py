"""What the processes of the parallel tests do: ``python -m tests.distributed.worker FOLDER CASES``, CASES in JSON.

The tests call the same functions in their own process, which is alone, for what is expected.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from safe_train.config import build_config
from safe_train.distributed.fsdp import shard_base
from safe_train.distributed.processes import Processes, connected
from safe_train.errors import InputError, NonFiniteLossError, PeerRankError
from safe_train.retention.ewc import accumulate_fisher
from safe_train.runs.checkpoint import latest_checkpoint
from safe_train.training.build import (
    attach,
    build_batches,
    load_base_model,
    load_examples,
)
from safe_train.training.trainer import StageATrainer
from tests.retention.toy import ROWS, ToyBatch, ToyModel

STEPS = 6


class MeanOfMeans(Processes):
    """Wrong: each process divides by its own tokens, as a mean of the processes' mean losses does."""

    def sum(self, count: int) -> int:
        return count * self.world_size


class OwnNumbers(Processes):
    """Wrong: each process numbers its rows by itself, so that labels depend on how rows are shared out."""

    def global_indices(self, count: int) -> range:
        return range(count)


KINDS = {kind.__name__: kind for kind in (Processes, MeanOfMeans, OwnNumbers)}


def build(settings: dict[str, str], processes: Processes) -> StageATrainer:
    config = build_config({}, settings)
    base = load_base_model(config)
    if config.parallel.shard_base and not processes.is_alone:
        shard_base(base.model, base.decoder_layers, processes, torch.device("cpu"))
    model = attach(base, config)
    return StageATrainer(
        config,
        model,
        build_batches(config, model, load_examples(config), processes),
    )


def weights(stage: StageATrainer, prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": p.detach().clone() for name, p in stage.model.trainable_parameters().items()}


def outcome(stage: StageATrainer) -> dict[str, Tensor]:
    state = {f"state/{name}": value.clone().contiguous() for name, value in stage.retention.state_dict().items()}
    return weights(stage, "weight") | state


def trained(settings: dict[str, str], processes: Processes) -> dict[str, Tensor]:
    """Weights at the start, weights, mechanisms' state and metrics after some steps."""
    stage = build(settings, processes)
    found = weights(stage, "start")
    for step in range(STEPS):
        metrics = stage.train_step()
        found |= {f"metric/{step}/{name}": torch.tensor(value).double() for name, value in metrics.items()}
    held = {f"held/{number}": torch.tensor(elements) for number, elements in enumerate(held_by_layer(stage))}
    return found | outcome(stage) | held


def held_by_layer(stage: StageATrainer) -> list[int]:
    """Elements of each decoder layer's frozen weights that this process holds between the steps."""
    return [
        sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in layer.parameters() if not p.requires_grad)
        for layer in stage.model.base.decoder_layers
    ]


def resumed(settings: dict[str, str], processes: Processes, folder: Path) -> dict[str, Tensor]:
    """The same, but the last process is told to stop on the way, and all go on from the checkpoint."""
    stage = build(settings, processes)
    stage.train(folder, should_stop=lambda: processes.rank == processes.world_size - 1 and stage.step == 3)
    after = build(settings, processes)
    after.resume(latest_checkpoint(folder), folder)
    stopped_at = torch.tensor([stage.step, after.step])
    while after.step < STEPS:
        after.train_step()
    return outcome(after) | {"stopped_at": stopped_at}


class SharedToy(ToyModel):
    """The toy model on this process's share of every batch."""

    def __init__(self, processes: Processes) -> None:
        super().__init__()
        self.processes = processes

    def batch(self, seed: int, rows: int = ROWS) -> ToyBatch:
        whole = super().batch(seed, rows)
        numbers = list(self.processes.shard(range(rows)))
        return ToyBatch(whole.inputs[numbers], whole.labels.view(rows, -1)[numbers].flatten())


def toy_fisher(processes: Processes) -> dict[str, Tensor]:
    """The Fisher diagonal of the toy model, whose predictions are far from certain, and the number of its rows."""
    model = SharedToy(processes)
    fishers, count = accumulate_fisher(
        model, model.linears, model.batches(24), labels="true", seed=5, collectives=processes
    )
    return fishers | {"count": torch.tensor(count)}


def failures(settings: dict[str, str], processes: Processes) -> dict[str, list[Any]]:
    """What a step ends with when the last process alone cannot read a clip, and when its loss alone is not finite."""
    is_last = processes.rank == processes.world_size - 1

    def unreadable(_rows: object, **_options: object) -> Any:
        raise InputError("clip.wav", "audio", "nothing", "replace it")

    def raised(step: Callable[[], object]) -> str:
        try:
            step()
        except (InputError, NonFiniteLossError, PeerRankError) as error:
            return f"{type(error).__name__}: {error}"
        return "nothing"

    found = {}
    for name in ("unreadable", "not finite"):
        stage = build(settings, processes)
        if is_last and name == "unreadable":
            stage.batches.collator.training_batch = unreadable  # type: ignore[method-assign]
        if is_last and name == "not finite":
            audio_loss = stage._task_loss
            stage._task_loss = lambda *given, loss=audio_loss: loss(*given) * float("nan")  # type: ignore
        found[name] = [raised(stage.train_step), stage.step]
    return found


def main(folder: Path, cases: dict[str, dict[str, Any]]) -> None:
    torch.set_num_threads(1)
    with connected(torch.device("cpu")) as processes:
        for name, case in cases.items():
            action = case["action"]
            given = KINDS[case.get("processes", "Processes")](processes.rank, processes.world_size)
            target = folder / f"{name}.{processes.rank}"
            if action == "failures":
                target.write_text(json.dumps(failures(case["settings"], given)))
            elif action == "resumed":
                save_file(resumed(case["settings"], given, folder / name), target)
            else:
                save_file(trained(case["settings"], given) if action == "trained" else toy_fisher(given), target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
