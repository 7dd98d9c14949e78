"""Stage A on a base of LLaVA-1.5-7B's shape, whose weights are random, beside what the dry run plans for it.

Five warm-up steps, in which everything is calibrated, then five timed ones. A plan that does not fit the device's
memory is said, and not tried.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.rehearsal import rehearsing, sized

pytest.importorskip("pydantic", reason="the trainer needs pydantic")
pytest.importorskip("soundfile", reason="the trainer needs soundfile")

from bench.dry_run import compare
from bench.gpu.plans import plans_of
from bench.gpu.profiler import kernel_table, microseconds_of
from bench.measure import gpu_limits
from bench.random_llava import Shape
from bench.stages import (
    configuration,
    data_folder,
    median_ratio,
    stage_on,
    step_parts,
    step_seconds,
    train_on_vl_rows,
)
from safe_train.config import StageAConfig
from safe_train.configs.gpus import GPUS
from safe_train.estimate import Plan
from safe_train.estimate.speed import speed_of
from safe_train.model.base import Base
from safe_train.training.trainer import StageATrainer

pytestmark = pytest.mark.stage_a

VARIANTS = ["no_retention", "soft_retention", "fisher_retention", "nullspace_retention", "full_retention"]
LLAVA_7B = Shape(
    hidden=4096, layers=32, image_side=24, vision_hidden=1024, vocabulary=32_064, head_width=128, feed_forward=11_008,
    vision_layers=24,
)  # fmt: skip
"""LLaVA-1.5-7B: Llama-2 7B and CLIP ViT-L/14 at 336 pixels, 576 tokens an image."""

SHAPE = sized(LLAVA_7B, Shape(hidden=64, layers=2, image_side=2, vision_hidden=64, vocabulary=1000))
ROUNDS = sized(5, 2)
PROFILED = "full_retention"


@dataclass(frozen=True)
class Bench:
    """What the variants share.

    Attributes:
        base: the frozen base.
        configs: a configuration for each variant.
        plans: what is planned for it.
    """

    base: Base
    configs: dict[str, StageAConfig]
    plans: dict[str, Plan]


def config_of(variant: str, data: Path, folder: Path, device: str) -> StageAConfig:
    """Four audio and four protected rows a step; the trained parts are sized as for the 13 B model."""
    parts = {"model__fusion_dim": sized(1024, 32), "model__projector_hidden": sized(2048, 32)}
    rows = {"optimization__audio_batch_size": 4, "optimization__vl_batch_size": 4, "data__max_train_vl": 8}
    return configuration(
        data, variant=variant, model__base_model=folder, precision="bf16", device=device,
        model__fusion_layers=sized(4, 2), **parts, **rows,
    )  # fmt: skip


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Base and plans; the plans are made by other processes while the base is made on the device."""
    device = torch.device("cpu" if rehearsing() else "cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("a base of this size needs a GPU")
    root = tmp_path_factory.mktemp("llava")
    data, folder = data_folder(root / "data"), root / "base"
    SHAPE.save(folder, weights=False)
    configs = {variant: config_of(variant, data, folder, device.type) for variant in VARIANTS}
    if device.type == "cuda":
        gpu_limits()  # which takes 8 GB, while they are free
    with plans_of(list(configs.values()), workers=sized(len(VARIANTS), 1)) as coming:
        base = SHAPE.base(folder, device, torch.bfloat16)
        plans = dict(zip(configs, coming, strict=True))
    return Bench(base, configs, plans)


@pytest.mark.parametrize("variant", VARIANTS)
def test_step(bench: Bench, variant: str, record_property: Callable[[str, Any], None]) -> None:
    """Memory and time of a step, planned and measured."""
    freed()
    config, plan, device = bench.configs[variant], bench.plans[variant], bench.base.model.device
    record_property("stage_a", variant)
    record_property("planned_peak", plan.peak_bytes)
    record_property("trained", plan.trained)
    record_property("tflop", plan.step.cost.flops / 1e12)
    if (kind := gpu_kind(device)) is not None:
        record_property("planned_seconds", plan.step_seconds(speed_of(GPUS[kind], config.precision)))
    if plan.peak_bytes > (room := usable(device)):
        pytest.skip(f"the plan's peak is {plan.peak_bytes / 1e9:.1f} GB, and there is room for {room / 1e9:.1f} GB")
    found = compare("random LLaVA", bench.base, config, plan, 0, ROUNDS)
    for name, value in asdict(found).items():
        record_property(name, value)


def test_same_rows(bench: Bench, record_property: Callable[[str, Any], None]) -> None:
    """Full retention against training on the same rows, the protected ones by plain cross-entropy, round by round."""
    with calibrated(bench, "no_retention", PROFILED) as (baseline, retained):

        def on_both_kinds() -> None:
            baseline.train_step(measure=False)
            train_on_vl_rows(baseline)

        on_both_kinds()
        arms = {"no_retention": on_both_kinds, PROFILED: lambda: retained.train_step(measure=False)}
        found = step_seconds(arms, ROUNDS, bench.base.model.device)
    ratio, spread = median_ratio(found[PROFILED], found["no_retention"])
    record_property("same_rows", found)
    record_property("ratio", ratio)
    record_property("spread", spread)


def test_parts(bench: Bench, record_property: Callable[[str, Any], None]) -> None:
    """Shares of data, passes, mechanisms and optimizer in a step of full retention."""
    with calibrated(bench, PROFILED) as (stage,):
        record_property("parts", step_parts(stage, ROUNDS))


def test_profile(bench: Bench, record_property: Callable[[str, Any], None]) -> None:
    """Where a step of full retention spends its time."""
    with calibrated(bench, PROFILED) as (stage,):
        table = kernel_table(lambda: stage.train_step(measure=False), bench.base.model.device, None)
    assert table
    record_property("profile", PROFILED)
    record_property("kernels", table[:30])
    record_property("busy_seconds", microseconds_of(table) / 1e6)


@contextmanager
def calibrated(bench: Bench, *variants: str) -> Iterator[list[StageATrainer]]:
    """Stage A of variants after three steps, in which everything is calibrated; taken off the base afterwards."""
    freed()
    stages = [stage_on(bench.base, bench.configs[variant]) for variant in variants]
    try:
        for stage in stages:
            for _ in range(3):
                stage.train_step(measure=False)
        yield stages
    finally:
        for stage in stages:
            stage.model.detach()


def usable(device: torch.device) -> float:
    """Bytes that this process may have on a GPU, what it has already among them."""
    if device.type == "cpu":
        return float("inf")
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_allocated(device)


def gpu_kind(device: torch.device) -> str | None:
    """The name under which plans know a GPU; None for another device."""
    name = torch.cuda.get_device_name(device).lower() if device.type == "cuda" else ""
    return next((kind for kind in GPUS if kind in name), None)


def freed() -> None:
    """Lets go of what the last variant held, also where it failed and its traceback is kept for a debugger."""
    sys.last_value = None
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
