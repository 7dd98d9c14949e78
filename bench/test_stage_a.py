"""A Stage A step of the embedded model: full retention against none, on the same rows.

Training without retention never reads the VL rows. So that both arms do so, the baseline trains on them as well, by
plain cross-entropy: what remains is the price of the retention mechanisms themselves. `python -m bench.cost` compares
all variants, with and without the caches, and larger models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.measure import OURS, peak_extra_bytes
from bench.rehearsal import sized

STEPS = 6
WARM_UP = sized(10, 3)
"""Steps before the timed ones: the subspaces and the Fisher diagonal are calibrated in them."""

VARIANTS = ["full_retention", "no_retention"]


def measure(benchmark: Any, device: torch.device, variant: str, folder: Path) -> None:
    """Time of a step after calibration."""
    pytest.importorskip("pydantic", reason="the trainer needs pydantic")
    pytest.importorskip("soundfile", reason="the trainer needs soundfile")
    from bench.stages import configuration, data_folder, stage_on, step_seconds, train_on_vl_rows
    from safe_train.training.build import load_base_model

    config = configuration(data_folder(folder / "data"), variant=variant, device=device)
    stage = stage_on(load_base_model(config), config)

    def step() -> None:
        stage.train_step(measure=False)
        if variant == "no_retention":
            train_on_vl_rows(stage)

    for _ in range(WARM_UP):
        step()
    memory = peak_extra_bytes(step, device)
    benchmark.group = "Stage A step"
    benchmark.pedantic(step, rounds=1 if device.type == "cuda" else STEPS)
    on_gpu = step_seconds({variant: step}, STEPS, device)[variant] if device.type == "cuda" else []
    benchmark.extra_info.update(
        stage_a_step=variant,
        implementation=OURS,
        step_seconds=min(on_gpu) if on_gpu else benchmark.stats.stats.min,
        peak_extra_bytes=memory,
    )


@pytest.mark.small
@pytest.mark.parametrize("variant", VARIANTS)
def test_step(benchmark: Any, device: torch.device, variant: str, tmp_path: Path) -> None:
    """On a CPU."""
    measure(benchmark, device, variant, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("variant", VARIANTS)
def test_full_step(benchmark: Any, device: torch.device, variant: str, tmp_path: Path) -> None:
    """On a GPU, where a step of this small model waits for the host."""
    measure(benchmark, device, variant, tmp_path)
