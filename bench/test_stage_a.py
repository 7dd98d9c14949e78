"""A Stage A step of the embedded model: full retention against none, on the same rows.

Training without retention never reads the VL rows. So that both arms do so, the baseline trains on them as well, by
plain cross-entropy: what remains is the price of the retention mechanisms themselves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.measure import OURS, peak_extra_bytes

STEPS = 6
WARM_UP = 10
"""Steps before the timed ones: the subspaces and the Fisher diagonal are calibrated in them."""


def prepared(variant: str, root: Path) -> Any:
    """Stage A of a variant on a small procedural data set."""
    from safe_train.config import build_config
    from safe_train.embedded.dataset import DatasetSizes, write_dataset
    from safe_train.experiment import attach, load_base_model, load_rows, row_encoder, row_stream
    from safe_train.stage_a import StageA

    write_dataset(root, DatasetSizes(train_questions=120, val_questions=20, train_clips=80, val_clips=12))
    settings = {
        "data.root": root,
        "variant": variant,
        "optimization.max_steps": WARM_UP + 4 * STEPS,
        "retention.fisher_samples": 16,
        "log_every": 1000,
    }
    config = build_config({}, {key: str(value) for key, value in settings.items()})
    model = attach(load_base_model(config), config)
    return StageA(config, model, row_encoder(model), row_stream(load_rows(config), config))


def train_on_vl_rows(stage: Any) -> None:
    """Forward and backward pass of the step's VL rows under plain cross-entropy."""
    batch = stage._vl_batch(stage.step)
    hidden = stage.model.last_hidden_state(batch.inputs, batch.features)
    logits = stage.model.base.head(hidden[batch.token_rows, batch.token_positions])
    torch.nn.functional.cross_entropy(logits, batch.labels).backward()


@pytest.mark.small
@pytest.mark.parametrize("variant", ["full_retention", "no_retention"])
def test_step(benchmark: Any, variant: str, tmp_path: Path) -> None:
    """Time of a step after calibration."""
    stage = prepared(variant, tmp_path)

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
