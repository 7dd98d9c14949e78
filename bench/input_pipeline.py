"""How long a device would wait for its batches: real files, processors and extractors, and a step that only takes time.

    python -m bench.input_pipeline --json docs/results/input_pipeline.json

prints two tables: what a core does a second at each stage, and the share of the time in which the device has nothing to
do. The device takes 0.8 s a step, in which the host sleeps, or runs as much Python as takes it 0.6 s alone, as it does
where it launches kernels. Peers: the loop that prepares each batch when its turn comes (`data.num_workers=0`), and a
thread pool of as many threads as there are worker processes. Images are JPEG of 640 x 480, clips are WAV of 10 s at
44.1 kHz; encoders are the smallest of their class, since theirs is the device's work, but their extractors are the real
ones.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import (
    ClapAudioConfig,
    ClapAudioModelWithProjection,
    ClapFeatureExtractor,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from bench.random_llava import LLAVA_13B
from safe_train.audio.waveform import load_waveform
from safe_train.config import StageAConfig, build_config
from safe_train.data.cache.features import FeatureCache
from safe_train.data.cache.tensor_store import TensorStore
from safe_train.data.collator import Collator
from safe_train.data.example import QUESTION, Example
from safe_train.data.image import load_image
from safe_train.data.sampler import ExampleSampler
from safe_train.embedded.models import build_processor
from safe_train.model.audio.encoder import AudioEncoder
from safe_train.training.batches import StepBatch, StepBatches

DEVICE_SECONDS = 0.8
"""A step of LLaVA-1.5-7B on 32 rows."""

LAUNCH_SECONDS = 0.6
"""Of which the host runs Python, where it launches: of LLaVA-7B on an H100 it is busy for most of a step."""

ROWS = 16
"""Audio examples a step, and retention examples."""

PROCESSORS = ("llava", "qwen2-vl")
ENCODERS = ("clap", "whisper")
LOOPS = ("in turn", "threads", "processes")
HOSTS = ("asleep", "launching")


@dataclass(frozen=True)
class StageSpeed:
    """What one core does of one stage.

    Attributes:
        stage: its name.
        rows_per_second: of one thread's CPU time.
    """

    stage: str
    rows_per_second: float


@dataclass(frozen=True)
class Waiting:
    """How long the device waited in one loop.

    Attributes:
        processor, encoder: whose batches.
        clips: "new" where no clip was heard before, "kept" where all features are in memory.
        loop: "in turn", "threads" or "processes".
        workers: how many threads or processes.
        host: "asleep" or "launching" during the device's step.
        steps: how many were counted.
        seconds_a_step: what it took.
        share: of the time in which the device had nothing to do.
    """

    processor: str
    encoder: str
    clips: str
    loop: str
    workers: int
    host: str
    steps: int
    seconds_a_step: float
    share: float


class Files:
    """A folder of images and clips, none like another."""

    def __init__(self, folder: Path, count: int) -> None:
        """Writes them: images with structure at every scale, noise with a tone."""
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        self.images, self.clips = [], []
        for number in range(count):
            scales = [rng.random((15 * 2**level, 20 * 2**level, 3)) for level in range(6)]
            layers = [np.kron(scale, np.ones((2 ** (5 - level),) * 2 + (1,))) for level, scale in enumerate(scales)]
            pixels = sum(layer / 2 ** (level + 1) for level, layer in enumerate(layers))
            image = folder / f"{number}.jpg"
            Image.fromarray((255 * pixels / np.max(pixels)).astype(np.uint8)).save(image, quality=90)
            self.images.append(image)
            clip = folder / f"{number}.wav"
            _write_clip(
                clip, 0.1 * rng.standard_normal(441_000) + 0.1 * np.sin(np.arange(441_000) * (0.01 + number / 1e3))
            )
            self.clips.append(clip)


def _write_clip(path: Path, samples: np.ndarray) -> None:
    import wave

    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 44_100, 0, "NONE", ""))
        file.writeframes((np.clip(samples, -1, 1) * 32_767).astype("<i2").tobytes())


def processor_named(name: str) -> Any:
    """LLaVA-1.5's or Qwen2-VL's processor at its own sizes, with the embedded base's vocabulary."""
    if name == "llava":
        return LLAVA_13B.processor
    embedded = build_processor()
    videos = Qwen2VLVideoProcessor()
    return Qwen2VLProcessor(Qwen2VLImageProcessor(), embedded.tokenizer, videos, chat_template=embedded.chat_template)


def encoder_named(name: str) -> AudioEncoder:
    """The smallest CLAP or Whisper with its extractor at its own sizes."""
    torch.manual_seed(0)
    if name == "clap":
        config = ClapAudioConfig(
            patch_embeds_hidden_size=8, depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 1, 1], hidden_size=64,
            projection_dim=16, enable_fusion=False,
        )  # fmt: skip
        return AudioEncoder(ClapAudioModelWithProjection(config), ClapFeatureExtractor(truncation="rand_trunc"), name)
    config = WhisperConfig(
        vocab_size=50, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=1, encoder_ffn_dim=8,
        decoder_attention_heads=1, decoder_ffn_dim=8, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=3,
    )  # fmt: skip
    return AudioEncoder(WhisperModel(config), WhisperFeatureExtractor(), name, features="pooled")


@dataclass(frozen=True)
class Pipeline:
    """The batches of one processor and one encoder.

    Attributes:
        files: images and clips.
        processor: "llava" or "qwen2-vl".
        encoder: "clap" or "whisper".
    """

    files: Files
    processor: str
    encoder: str

    def batches(self, workers: int = 0, *, kept: bool = False) -> StepBatches:
        """Those of a new run; with ``kept`` the features of all clips are in memory."""
        config = self._config(workers)
        features = FeatureCache([self._encoder], 0, self._kept if kept else None)
        return StepBatches(config, Collator(self._processor, features), self._sampler(config))

    @cached_property
    def _processor(self) -> Any:
        return processor_named(self.processor)

    @cached_property
    def _encoder(self) -> AudioEncoder:
        return encoder_named(self.encoder)

    @cached_property
    def _kept(self) -> TensorStore:
        features = FeatureCache([self._encoder], 0)
        features.get([*self.files.clips, None])
        return features.store

    def _config(self, workers: int) -> StageAConfig:
        return build_config(
            {},
            {
                "optimization.audio_batch_size": str(ROWS),
                "optimization.vl_batch_size": str(ROWS),
                "data.num_workers": str(workers),
            },
        )

    def _sampler(self, config: StageAConfig) -> ExampleSampler:
        """Questions about each image, as many texts, and one about each clip."""
        vl = [Example(f"v{n}", "what color?", ("red",), image=image) for n, image in enumerate(self.files.images)]
        text = [Example(f"t{n}", "what is red?", ("a color",)) for n in range(len(vl))]
        audio = [
            Example(f"a{n}", "what do you hear?", ("a tone",), audio=clip, kind=QUESTION)
            for n, clip in enumerate(self.files.clips)
        ]
        return ExampleSampler(audio, vl, text, seed=config.seed, image_prob=config.data.image_prob)


def stage_speeds(files: Files, rounds: int = 24) -> list[StageSpeed]:
    """Each stage on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [StageSpeed(name, 1 / _cpu_seconds(stage, rounds)) for name, stage in _stages(files)]
    finally:
        torch.set_num_threads(threads)


def _stages(files: Files) -> Iterator[tuple[str, Callable[[int], Any]]]:
    count = len(files.images)
    images = [load_image(path) for path in files.images[:8]]
    yield "JPEG to RGB", lambda n: load_image(files.images[n % count])
    for name in PROCESSORS:
        image_processor = processor_named(name).image_processor
        yield f"{name} image processor", lambda n, p=image_processor: p([images[n % 8]], return_tensors="pt")
    for name in ENCODERS:
        encoder = encoder_named(name)
        rate, window = encoder.sampling_rate, encoder.window
        clips = [load_waveform(path, rate, window) for path in files.clips[:8]]
        yield f"WAV to {rate // 1000} kHz", lambda n, r=rate, w=window: load_waveform(files.clips[n % count], r, w)
        yield f"{name} extractor", lambda n, e=encoder, c=clips: e.prepare(c[n % 8])


def _cpu_seconds(stage: Callable[[int], Any], rounds: int) -> float:
    stage(0)
    start = time.thread_time()
    for number in range(rounds):
        stage(number)
    return (time.thread_time() - start) / rounds


def rounds_of(seconds: float) -> int:
    """How much Python this machine runs in so many seconds, while nothing else does."""
    start, rounds = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        _launch(1)
        rounds += 1
    return rounds


def _launch(rounds: int) -> None:
    for _ in range(rounds):
        sum(range(1_000))


def waiting(
    pipeline: Pipeline, loop: str, workers: int, host: str, steps: int, *, kept: bool = False
) -> tuple[float, float]:
    """Seconds in which the device had nothing to do, and seconds in all, of so many steps behind the first two.

    As in training: the host launches a step, stages the next one where workers prepare it, then waits for the device.
    """
    batches = pipeline.batches(workers if loop == "processes" else 0, kept=kept)
    rounds, start = rounds_of(LAUNCH_SECONDS) if host == "launching" else 0, 0.0
    with _prepared(batches, loop, workers, steps + 2) as take:
        for step in range(steps + 2):
            if step == 2:
                start = time.perf_counter()
            take(step)
            begun = time.perf_counter()
            _launch(rounds)
            batches.stage(step + 1)
            time.sleep(max(0.0, begun + DEVICE_SECONDS - time.perf_counter()))
        total = time.perf_counter() - start
    return total - steps * DEVICE_SECONDS, total


@contextmanager
def _prepared(batches: StepBatches, loop: str, workers: int, end: int) -> Iterator[Callable[[int], StepBatch]]:
    """What gives the batches of a step in one of the loops."""
    if loop != "threads":
        with batches.prefetched(0, end):
            yield batches.at
        return
    with ThreadPoolExecutor(workers) as pool:  # a step a thread, as many ahead as the processes may be
        ahead = 2 * workers
        coming = {step: pool.submit(batches.at, step) for step in range(min(ahead, end))}

        def take(step: int) -> StepBatch:
            if step + ahead < end:
                coming[step + ahead] = pool.submit(batches.at, step + ahead)
            return coming.pop(step).result()

        yield take


def measure(
    folder: Path, workers: int, steps: int, hosts: Sequence[str] = HOSTS, processors: Sequence[str] = PROCESSORS
) -> Iterator[Waiting]:
    """Every loop on every pair of processor and encoder, with new clips and with kept features."""
    files = Files(folder, ROWS * (steps + 2))
    for processor in processors:
        for encoder in ENCODERS:
            pipeline = Pipeline(files, processor, encoder)
            for kept in (False, True):
                for host in hosts:
                    for loop in LOOPS:
                        waited, total = waiting(pipeline, loop, workers, host, steps, kept=kept)
                        clips = "kept" if kept else "new"
                        yield Waiting(
                            processor, encoder, clips, loop, workers, host, steps, total / steps, waited / total
                        )


def markdown(speeds: Sequence[StageSpeed], found: Sequence[Waiting]) -> str:
    """Both tables."""
    lines = ["| stage | rows a second and core |", "|---|---|"]
    lines += [f"| {speed.stage} | {speed.rows_per_second:.0f} |" for speed in speeds]
    lines += ["", f"| processor, encoder, clips, host | {' | '.join(LOOPS)} |", "|---|---|---|---|"]
    cases = dict.fromkeys((each.processor, each.encoder, each.clips, each.host) for each in found)
    for case in cases:
        of_case = {w.loop: w for w in found if (w.processor, w.encoder, w.clips, w.host) == case}
        shares = " | ".join(f"{100 * of_case[loop].share:.1f} %" for loop in LOOPS)
        lines.append(f"| {', '.join(case)} | {shares} |")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """What the figures are of."""
    return {
        "cores": len(os.sched_getaffinity(0)), "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
        "device_seconds": DEVICE_SECONDS, "rows": 2 * ROWS,
    }  # fmt: skip


def main() -> None:
    """Prints the tables, and writes the figures if a file is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6, help="counted behind the first two (default: 6)")
    parser.add_argument("--json", type=Path, help="a file for all figures")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        speeds = stage_speeds(Files(Path(folder) / "stages", 24))
        found = list(measure(Path(folder) / "loops", given.workers, given.steps))
    print(markdown(speeds, found))
    if given.json:
        figures = {"machine": machine(), "stages": [*map(asdict, speeds)], "waiting": [*map(asdict, found)]}
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
