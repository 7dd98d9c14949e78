"""What the processes of the parallel tests do: ``python -m tests.finetuning.worker FOLDER CASES``, CASES in JSON.

The tests call :func:`outcome` in their own process, which is alone, for what is expected.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from safe_train.distributed.processes import Processes
from safe_train.finetuning.chats import ChatCollator
from safe_train.huggingface import Retention
from tests.finetuning.tiny_images import image_model, image_rows, loaded
from tests.finetuning.tiny_text import SETTINGS, RetentiveTrainer, arguments, collate, rows, text_model, trained_weights

EXAMPLES = 48


class MeanOfMeans(Processes):
    """Wrong: each process divides by its own tokens, as if every share had equally many."""

    def sum(self, count: int) -> int:
        return count * self.world_size


class EachForItself(Processes):
    """Wrong: the retention's gradients are not summed, as those of a second backward pass under DDP are not."""

    def sum_(self, tensors: Any) -> None:
        """Leaves them."""


KINDS = {kind.__name__: kind for kind in (Processes, MeanOfMeans, EachForItself)}


class Stop(TrainerCallback):
    """Ends the training behind a step, as a kill would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, _args: Any, state: Any, control: Any, **_options: Any) -> None:
        control.should_training_stop = state.global_step == self.step


def trainer_of(case: dict[str, Any], folder: Path, world_size: int) -> RetentiveTrainer:
    """A training of micro-batches of four rows in all, whatever the number of processes."""
    options = {"per_device_train_batch_size": 4 // world_size, "train_sampling_strategy": "sequential"}
    options |= {"gradient_accumulation_steps": 2, "max_steps": 8, **case.get("options", {})}
    if case.get("model") == "llava":
        model, data, collator = image_model("llava"), image_rows(EXAMPLES, 1), ChatCollator(loaded("llava")[1])
        protected, options["remove_unused_columns"] = image_rows(9, 2), False
    else:
        model, data, collator = text_model(adapter=case.get("adapter", True)), rows(EXAMPLES, 1), collate
        protected = rows(24, 2)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # each process draws for itself
    args = arguments(folder, **options)
    if "fsdp" in options:  # as on GPUs: Accelerate knows no FSDP on CPUs, where PyTorch's works all the same
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    settings = SETTINGS.model_copy(update={"retention_scale": case.get("scale", 1.0)})
    return RetentiveTrainer(
        model=model, args=args, train_dataset=data, data_collator=collator,
        retention=Retention(protected, case["variant"], rows_per_step=5, settings=settings),
    )  # fmt: skip


def outcome(case: dict[str, Any], folder: Path, world_size: int = 1) -> dict[str, Tensor]:
    """Weights at the start and the end, the mechanisms' state, and what was logged."""
    trainer = trainer_of(case, folder, world_size)
    found = {f"start/{name}": value for name, value in trained_weights(trainer.model).items()}
    trainer.train(resume_from_checkpoint=case.get("resume"))
    found |= {f"end/{name}": value for name, value in trained_weights(trainer.model).items()}
    held = sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in trainer.model.parameters())
    found["held"] = torch.tensor(held)
    state = trainer.retention.stack.state_dict()
    found |= {f"state/{name}": value.clone().contiguous() for name, value in state.items()}
    for line in trainer.state.log_history:
        names = {"loss", "retention_loss", "grad_norm", "kl", "ewc", "replay_loss"} & line.keys()
        found |= {f"log/{line['step']}/{name}": torch.tensor(line[name]).double() for name in names}
    return found


def main(folder: Path, cases: dict[str, dict[str, Any]]) -> None:
    torch.set_num_threads(1)
    loaded("llava")  # while there are no other processes: of several, one alone writes a folder
    for name, case in cases.items():
        import safe_train.finetuning.trainer as finetuning

        finetuning.Processes = KINDS[case.get("processes", "Processes")]
        found = outcome(case, folder / name, world_size=2)
        rank = torch.distributed.get_rank()
        save_file(found, folder / f"{name}.{rank}")
        if case.get("save"):
            resumed = case | {"resume": str(folder / name / "checkpoint-4")}
            save_file(outcome(resumed, folder / name, world_size=2), folder / f"{name}.resumed.{rank}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
