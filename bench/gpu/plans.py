"""Dry runs in processes of their own, so that the device is used meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

import torch

from safe_train.config import StageAConfig
from safe_train.estimate import Plan, plan_run


def planned(config: StageAConfig) -> Plan:
    """The plan of a configuration, made by one thread: others are planned beside it."""
    torch.set_num_threads(1)
    return plan_run(config)


@contextmanager
def plans_of(configs: Sequence[StageAConfig], workers: int) -> Iterator[Iterator[Plan]]:
    """The plans, in order, as they come."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield pool.map(planned, configs)
