"""Whether a plan fits into a GPU, and what to change if it does not: changes that were planned again and do fit."""

from __future__ import annotations

from collections.abc import Iterator

from safe_train.config import build_config
from safe_train.configs.gpus import GPUS, Gpu
from safe_train.errors import InputError
from safe_train.estimate.run_estimate import Plan, plan_run
from safe_train.estimate.speed import GIB, usable_bytes
from safe_train.retention import NullSpaceProjection
from safe_train.retention.stack import resolve_variant
from safe_train.retention.subspace import captured_memory

Changes = dict[str, object]

_LEAST_GIB = 0.01
"""Smallest memory for captures that is proposed."""


def require_fit(plan: Plan, gpu: Gpu) -> None:
    """Finds out whether the run fits into a GPU's memory.

    Raises:
        InputError: it does not; the error says what to change.
    """
    room = usable_bytes(gpu)
    if plan.peak_bytes <= room:
        return
    expected, got = f"a plan of at most {room / GIB:.1f} GiB", f"{plan.peak_bytes / GIB:.1f} GiB"
    raise InputError(f"--gpu {gpu.name}", expected, got, _hint(plan, gpu, room))


def _hint(plan: Plan, gpu: Gpu, room: int) -> str:
    """A larger GPU, and settings."""
    larger = [name for name, other in GPUS.items() if plan.peak_bytes <= usable_bytes(other) and name != gpu.name]
    ways = [f"take --gpu {larger[0]}"] if larger else []
    if plan.held_bytes >= room:  # no step is small enough
        ways += ["set precision=bf16"] if plan.config.precision == "fp32" else []
        ways += ["set model.quantization=4bit"] if plan.config.model.quantization == "none" else []
    else:
        found = first_that_fits(plan, room)
        ways += ["set " + " ".join(f"{key}={value}" for key, value in found.items())] if found else []
    return ", or ".join(ways or ["choose a smaller base"])


def first_that_fits(plan: Plan, room: int) -> Changes | None:
    """The first changes with which the run, planned again, takes no more than ``room`` bytes; None if there are none.

    What leaves the training as it is comes first: less memory for captures, gradient checkpointing, fewer rows in more
    micro-batches. A smaller null space comes last.
    """
    return next((changes for changes in _proposals(plan, room) if _replan(plan, changes).peak_bytes <= room), None)


def _replan(plan: Plan, changes: Changes) -> Plan:
    return plan_run(build_config(plan.config.model_dump(mode="json"), {}, options=changes))


def _proposals(plan: Plan, room: int) -> Iterator[Changes]:
    null_space = plan.calibrations.get(NullSpaceProjection.name)
    others = [phase.peak for name, phase in plan.calibrations.items() if name != NullSpaceProjection.name]
    is_null_space_alone = null_space is not None and max(plan.step.peak, *others, 0) <= room
    if null_space is not None and is_null_space_alone:
        gib = _capture_bytes(plan) / GIB - 1.1 * (null_space.peak - room) / GIB
        if gib >= _LEAST_GIB:
            yield {"retention.null_space_memory_gib": round(gib - _LEAST_GIB / 2, 2)}
    saving: Changes = {} if plan.config.model.gradient_checkpointing else {"model.gradient_checkpointing": "true"}
    if saving:
        yield saving
    for rows in _fewer_rows(plan):
        yield saving | rows
    if is_null_space_alone:
        rank = _rank(plan)
        while (rank := rank // 2) > 0:
            yield {"retention.null_space_rank": rank}


def _fewer_rows(plan: Plan) -> Iterator[Changes]:
    """Half as many rows in twice as many micro-batches, and so on, as long as a step has the rows that it had."""
    settings = plan.config.optimization
    audio, vl, times = settings.audio_batch_size, settings.vl_batch_size, settings.gradient_accumulation_steps
    while audio % 2 == 0 and vl % 2 == 0:
        audio, vl, times = audio // 2, vl // 2, times * 2
        yield {
            "optimization.audio_batch_size": audio,
            "optimization.vl_batch_size": vl,
            "optimization.gradient_accumulation_steps": times,
        }


def _rank(plan: Plan) -> int:
    return resolve_variant(plan.config.retention_variant(), plan.config.retention).null_space_rank


def _capture_bytes(plan: Plan) -> int:
    """Bytes that captures may take in the plan."""
    gib = plan.config.retention.null_space_memory_gib
    return captured_memory(plan.trained, _rank(plan)) if gib is None else int(gib * GIB)
