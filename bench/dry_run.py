"""The dry run's memory and time beside a measured run.

    python -m bench.dry_run --output dry_run.json
    python -m bench.dry_run --device cuda --output dry_run.json

Memory: the storages of all tensors that live between steps, and what the profiler, or a GPU's allocator, sees allocated
above them during a step. Time: CPU seconds of a step, or seconds from an idle GPU to an idle GPU, planned from its
arithmetic, memory traffic and number of operations at the speeds that a matrix product, a copy and a small addition
have on this machine, all three slowed by one factor: how much slower than at these speeds the base's own forward pass
ran. The step itself is not used for that.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from bench.cost import random_base
from bench.measure import gpu_limits, limits, peak_extra_bytes
from bench.random_llava import Shape
from bench.stages import configuration, data_folder, stage_on, step_seconds
from safe_train.config import StageAConfig
from safe_train.estimate import Plan, plan_run
from safe_train.estimate.speed import Speed
from safe_train.model.base import Base
from safe_train.training.build import load_base_model, resolve_device
from safe_train.training.trainer import StageATrainer

LARGER = Shape(hidden=768, layers=12, image_side=8, vision_hidden=384, vocabulary=16_384)
_SMALL_OPERATIONS = 1000


@dataclass(frozen=True)
class Comparison:
    """A plan beside a run.

    Attributes:
        base: which base, with its number of parameters.
        variant: the retention variant.
        held: bytes between steps: planned, measured.
        peak: largest sum of live tensors in a step: planned, measured.
        resident: bytes by which the process grew from before the base was loaded to its largest; on a GPU, the most
            that its allocator has held.
        calibrated: largest sum of live tensors up to then, calibrations included: planned, measured on a GPU, else 0.
        seconds: of a step: planned, measured (median).
        spread: half the distance of the measured seconds' quartiles.
        factor: how much slower than at the speeds of single operations the base's forward pass ran.
        gflops: billion operations a second that the forward pass reached.
    """

    base: str
    variant: str
    held: tuple[int, int]
    peak: tuple[int, int]
    resident: int
    calibrated: tuple[int, int]
    seconds: tuple[float, float]
    spread: float
    factor: float
    gflops: float


def compare(name: str, base: Base, config: StageAConfig, plan: Plan, before: int, rounds: int) -> Comparison:
    """Runs what was planned, where the base is."""
    device = base.model.device
    stage = stage_on(base, config)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(3):  # calibrations, features of all clips
        stage.train_step(measure=False)
    stage.optimizer.zero_grad(set_to_none=True)  # else the profiler misses that they are freed
    held = bytes_held(stage)
    calibrated = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    extra = peak_extra_bytes(lambda: stage.train_step(measure=False), device)
    inputs = next(stage.batches.for_calibration(0, 1)).inputs

    @torch.no_grad()
    def bypass() -> None:
        stage.model.last_hidden_state(inputs, None)

    def encode() -> None:
        stage.batches.at(stage.step)

    arms = {"bypass": bypass, "encode": encode, "step": lambda: stage.train_step(measure=False)}
    found = step_seconds(arms, rounds, device)
    speed = machine_speed(device)
    forward = statistics.median(found["bypass"])
    factor = forward / speed.seconds(plan.bypass.cost)
    stage.model.detach()  # else the base holds it, and the next one's peak counts it
    measured = replace(plan, encoding_seconds=statistics.median(found["encode"]))
    first, _, third = statistics.quantiles(found["step"], n=4)
    return Comparison(
        base=f"{name}, {sum(p.numel() for p in base.model.parameters()) / 1e6:.1f} M",
        variant=config.variant,
        held=(plan.held_bytes, held),
        peak=(plan.step.peak, held + extra),
        resident=resident_bytes(device) - before,
        calibrated=(plan.peak_bytes, calibrated),
        seconds=(measured.step_seconds(speed.slowed(factor)), statistics.median(found["step"])),
        spread=(third - first) / 2,
        factor=factor,
        gflops=plan.bypass.cost.flops / forward / 1e9,
    )


def machine_speed(device: torch.device) -> Speed:
    """Speeds of a large matrix product, a large copy and a small addition on a device."""
    found = gpu_limits() if device.type == "cuda" else limits(device)
    small = torch.zeros(8, device=device)
    arms = {"additions": lambda: [small + 1 for _ in range(_SMALL_OPERATIONS)]}
    seconds = min(step_seconds(arms, 5, device)["additions"]) / _SMALL_OPERATIONS
    return Speed(found.flops, found.bandwidth, seconds, overlaps=device.type == "cuda")


def resident_bytes(device: torch.device) -> int:
    """The largest size so far of the process, or of what a GPU's allocator holds for it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def bytes_held(stage: StageATrainer) -> int:
    """Storages of everything that lives between steps, gradients left out."""
    tensors: list[Tensor] = [*stage.model.base.model.parameters(), *stage.model.base.model.buffers()]
    tensors += [*stage.model.encoders.parameters(), *stage.model.encoders.buffers()]
    tensors += [*stage.model.trainable_parameters().values(), *stage.retention.state_dict().values()]
    tensors += [v for state in stage.optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def markdown(rows: list[Comparison]) -> str:
    """One line a comparison; in brackets the plan's deviation from the measurement."""
    lines = [
        "| base | variant | held, MB | peak in a step, MB | resident, MB | a step, s | forward GFLOP/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        held, peak = (_pair(*(size / 1e6 for size in pair)) for pair in (row.held, row.peak))
        cells = (row.base, row.variant, held, peak, f"{row.resident / 1e6:.0f}")
        lines.append(f"| {' | '.join(cells)} | {_pair(*row.seconds)} ± {row.spread:.2g} | {row.gflops:.1f} |")
    return "\n".join([*lines, "", "each: planned / measured (deviation)"])


def _pair(planned: float, measured: float) -> str:
    return f"{planned:.3g} / {measured:.3g} ({100 * (planned / measured - 1):+.0f} %)"


def main() -> None:
    """Compares on the embedded base and on a larger one with random weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--bases", nargs="+", default=["embedded", "larger"])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    device = resolve_device(options.device)
    torch.set_num_threads(1)  # several wait actively for each other, which is CPU time of no work
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        data = data_folder(root / "data")
        for name in options.bases:
            settings = {} if name == "embedded" else larger_settings(root / "larger")
            for variant in ("no_retention", "full_retention"):
                config = configuration(data, variant=variant, device=device, **settings)
                plan = plan_run(config)
                before = resident_bytes(device)
                rows.append(compare(name, load_base_model(config), config, plan, before, options.rounds))
                print(markdown(rows[-1:]), flush=True)
    print(markdown(rows))
    if options.output is not None:
        described = {"threads": torch.get_num_threads(), "torch": torch.__version__, "rows": [asdict(r) for r in rows]}
        options.output.write_text(json.dumps(described, indent=2) + "\n")


def larger_settings(folder: Path) -> dict[str, object]:
    """A larger LLaVA, and trained parts in proportion."""
    random_base(LARGER, folder)
    return {
        "model__base_model": folder,
        "model__fusion_dim": 256,
        "model__projector_hidden": 512,
        "optimization__audio_batch_size": 4,
        "optimization__vl_batch_size": 4,
    }


if __name__ == "__main__":
    main()
