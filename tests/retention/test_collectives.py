"""The collectives of one process are those that a training in one process has: each gives back what it was given."""

import inspect

import torch

from safe_train.distributed.processes import ALONE, Processes
from safe_train.retention.collectives import SINGLE_PROCESS, Collectives, SingleProcess


def test_one_process_gives_back_what_it_was_given():
    for collectives in (SINGLE_PROCESS, ALONE):
        tensor = torch.arange(3.0)
        collectives.sum_([tensor])
        assert tensor.tolist() == [0.0, 1.0, 2.0]
        assert (collectives.sum(5), collectives.mean(0.25, 4), collectives.any(True), collectives.any(False)) == (
            5, 0.25, True, False,
        )  # fmt: skip
        assert collectives.gather_rows(tensor, 3) is tensor
        assert list(collectives.global_indices(4)) == [0, 1, 2, 3]


def test_the_trainers_processes_have_every_collective():
    wanted = {name for name in vars(Collectives) if not name.startswith("_")}
    for kind in (Processes, SingleProcess):
        for name in wanted:
            own, given = (list(inspect.signature(getattr(c, name)).parameters) for c in (kind, Collectives))
            assert own == given, name
