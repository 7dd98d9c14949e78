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
from bench.stages import configuration, data_folder, stage_on, train_on_vl_rows
from safe_train.experiment import load_base_model

STEPS = 6
WARM_UP = 10
"""Steps before the timed ones: the subspaces and the Fisher diagonal are calibrated in them."""


@pytest.mark.small
@pytest.mark.parametrize("variant", ["full_retention", "no_retention"])
def test_step(benchmark: Any, variant: str, tmp_path: Path) -> None:
    """Time of a step after calibration."""
    config = configuration(data_folder(tmp_path / "data"), variant=variant)
    stage = stage_on(load_base_model(config), config)

    def step() -> None:
        stage.train_step(measure=False)
        if variant == "no_retention":
            train_on_vl_rows(stage)

    for _ in range(WARM_UP):
        step()
    memory = peak_extra_bytes(step, torch.device("cpu"))
    benchmark.group = "Stage A step"
    benchmark.pedantic(step, rounds=STEPS)
    benchmark.extra_info.update(
        stage_a_step=variant,
        implementation=OURS,
        step_seconds=benchmark.stats.stats.min,
        peak_extra_bytes=memory,
    )
