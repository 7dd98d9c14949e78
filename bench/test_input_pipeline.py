"""The input pipeline: what a core does at each stage, and how long a device of 0.8 s a step would wait.

`python -m bench.input_pipeline` measures all pairs of processors and encoders, and prints tables.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

WORKERS, STEPS = 2, 4
LOOPS = ["in turn", "threads", "processes"]


@pytest.fixture(scope="module")
def pipeline() -> Any:
    """What measures it."""
    for package in ("transformers", "pydantic", "soundfile"):
        pytest.importorskip(package, reason=f"the input pipeline needs {package}")
    from bench import input_pipeline

    return input_pipeline


@pytest.fixture(scope="module")
def files(pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Enough for every step to have new ones."""
    return pipeline.Files(tmp_path_factory.mktemp("pipeline"), 16 * (STEPS + 2))


@pytest.mark.small
def test_stages(benchmark: Any, pipeline: Any, tmp_path: Path) -> None:
    """Rows a second and core."""
    benchmark.group = "input pipeline, stages"
    speeds = benchmark.pedantic(pipeline.stage_speeds, args=(pipeline.Files(tmp_path, 8), 8), rounds=1)
    benchmark.extra_info.update({speed.stage: speed.rows_per_second for speed in speeds})


@pytest.mark.small
@pytest.mark.parametrize("loop", LOOPS)
def test_waiting(benchmark: Any, pipeline: Any, files: Any, loop: str) -> None:
    """Share of the time in which the device has nothing to do, in the first epoch of LLaVA with Whisper."""
    _measure(benchmark, pipeline, files, "llava", "whisper", loop, "asleep", kept=False)


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("host", ["asleep", "launching"])
@pytest.mark.parametrize("kept", [False, True], ids=["new", "kept"])
@pytest.mark.parametrize("encoder", ["clap", "whisper"])
@pytest.mark.parametrize("processor", ["llava", "qwen2-vl"])
def test_every_pair(
    benchmark: Any, pipeline: Any, files: Any, processor: str, encoder: str, kept: bool, host: str, loop: str
) -> None:
    """The same of all pairs, with new clips and with kept features."""
    _measure(benchmark, pipeline, files, processor, encoder, loop, host, kept=kept)


def _measure(
    benchmark: Any, pipeline: Any, files: Any, processor: str, encoder: str, loop: str, host: str, *, kept: bool
) -> None:
    benchmark.group = f"input pipeline, {processor} and {encoder}, {'kept' if kept else 'new'} clips, host {host}"
    pair = pipeline.Pipeline(files, processor, encoder)
    waited, total = benchmark.pedantic(
        pipeline.waiting, args=(pair, loop, WORKERS, host, STEPS), kwargs={"kept": kept}, rounds=1
    )
    benchmark.extra_info.update(waiting_share=waited / total, workers=WORKERS, loop=loop)
