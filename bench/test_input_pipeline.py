"""The input pipeline: what a core does at each stage, and how long a device of 0.8 s a step would wait.

`python -m bench.input_pipeline` measures all pairs of processors and encoders, and prints tables.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.input_pipeline import ENCODERS, LOOPS, PROCESSORS, Files, Pipeline, stage_speeds, waiting

WORKERS, STEPS = 2, 4


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Enough for every step to have new ones."""
    return Files(tmp_path_factory.mktemp("pipeline"), 16 * (STEPS + 2))


@pytest.mark.small
def test_stages(benchmark: Any, tmp_path: Path) -> None:
    """Rows a second and core."""
    benchmark.group = "input pipeline, stages"
    speeds = benchmark.pedantic(stage_speeds, args=(Files(tmp_path, 8), 8), rounds=1)
    benchmark.extra_info.update({speed.stage: speed.rows_per_second for speed in speeds})


@pytest.mark.small
@pytest.mark.parametrize("loop", LOOPS)
def test_waiting(benchmark: Any, files: Files, loop: str) -> None:
    """Share of the time without a batch, in the first epoch of LLaVA with Whisper."""
    _measure(benchmark, files, "llava", "whisper", loop, "asleep", kept=False)


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("host", ["asleep", "launching"])
@pytest.mark.parametrize("kept", [False, True], ids=["new", "kept"])
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("processor", PROCESSORS)
def test_every_pair(
    benchmark: Any, files: Files, processor: str, encoder: str, kept: bool, host: str, loop: str
) -> None:
    """The same of all pairs, with new clips and with kept features."""
    _measure(benchmark, files, processor, encoder, loop, host, kept=kept)


def _measure(benchmark: Any, files: Files, processor: str, encoder: str, loop: str, host: str, *, kept: bool) -> None:
    benchmark.group = f"input pipeline, {processor} and {encoder}, {'kept' if kept else 'new'} clips, host {host}"
    pipeline = Pipeline(files, processor, encoder)
    waited, total = benchmark.pedantic(
        waiting, args=(pipeline, loop, WORKERS, host, STEPS), kwargs={"kept": kept}, rounds=1
    )
    benchmark.extra_info.update(waiting_share=waited / total, workers=WORKERS, loop=loop)
