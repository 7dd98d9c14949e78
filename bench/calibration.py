"""What the null space's calibration takes: exact bases beside the Frequent Directions sketch that they replace.

    python -m bench.calibration --output docs/results/calibration.json

prints a table in Markdown: memory above what was held before (largest sum of live tensors), CPU time of one thread with
the arms interleaved, and the angle to the subspace found in float64 from every single gradient. The last part plans
LLaVA-1.5-13B. The arms see the same rows, weights and captures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from bench.cost import MIDDLE, random_base
from bench.dry_run import larger_settings
from bench.measure import peak_extra_bytes
from bench.random_llava import LLAVA_13B
from bench.stages import configuration, cpu_seconds, data_folder, stage_on
from safe_kernels import Basis, FrequentDirections
from safe_train.config import StageAConfig
from safe_train.distributed.processes import ALONE, Processes
from safe_train.estimate import Plan, plan_run
from safe_train.estimate.speed import GIB
from safe_train.retention import NullSpaceProjection
from safe_train.retention.capture import per_sample_gradients
from safe_train.retention.mechanism import CalibrationBatches, RetentionModel
from safe_train.retention.subspace import captured_inputs_and_gradients, gradient_subspace
from safe_train.training.build import load_base_model

SAMPLES, RANK = 128, 8
_CPU = torch.device("cpu")
_BLOCK = 2**16
"""Rows of a tall matrix that are decomposed at a time."""

Bases = dict[str, Basis]
Arm = Callable[[], Bases]


@dataclass(frozen=True)
class Calibration:
    """One way to find the bases of a model.

    Attributes:
        base: which base, with its number of parameters and that of the trained ones.
        method: how the bases were found.
        extra_bytes: largest sum of live tensors above what was held before.
        seconds: CPU time, the median of the rounds.
        rounds: how often it was timed.
        median_sine: of the weights' largest principal angles to the subspace in float64.
        largest_sine: likewise.
        captured_energy: mean over weights of the share that the bases truly hold.
        energy_told: mean over weights of the share that they say they hold.
    """

    base: str
    method: str
    extra_bytes: int
    seconds: float
    rounds: int
    median_sine: float
    largest_sine: float
    captured_energy: float
    energy_told: float


def sketched_subspace(
    model: RetentionModel,
    linears: Mapping[str, nn.Linear],
    batches: CalibrationBatches,
    *,
    num_samples: int,
    rank: int,
    energy: float | None,
    memory: int | None = None,
    processes: Processes = ALONE,
) -> Bases:
    """The bases as they were found before: all gradients formed, and put into a sketch of four times the rank."""
    sketches: dict[str, FrequentDirections] = {}
    sums: dict[str, Tensor] = {}
    for batch in batches(num_samples):
        for name, (inputs, grad_outputs) in captured_inputs_and_gradients(model, linears, batch).items():
            gradients = per_sample_gradients(inputs, grad_outputs)
            if name not in sketches:
                size = gradients.shape[1]
                sketches[name] = FrequentDirections(size, min(2 * rank, size), device=gradients.device)
                sums[name] = torch.zeros_like(gradients[0])
            sketches[name].update(gradients)
            sums[name] += gradients.sum(dim=0)
    return {
        name: sketch.basis(rank=min(rank, sketch.rank), energy=energy).oriented(sums[name])
        for name, sketch in sketches.items()
    }


def arms(null_space: NullSpaceProjection) -> dict[str, Arm]:
    """The sketch; exact bases by default; and with no more memory for captures than the bases take."""
    model, linears, batches = null_space.model, null_space.linears, null_space.batches
    common: dict[str, Any] = {"num_samples": SAMPLES, "rank": RANK, "energy": None}
    of_bases = sum(4 * RANK * module.weight.numel() for module in linears.values())
    return {
        "sketch": lambda: sketched_subspace(model, linears, batches, **common),
        "exact": lambda: gradient_subspace(model, linears, batches, **common),
        "exact, captures no larger than the bases": lambda: gradient_subspace(
            model, linears, batches, memory=of_bases, **common
        ),
    }


def reference(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """All gradients G [n, d] of a weight in float64 and the subspace [d, r] that they span best.

    `G^T = Q R`, block by block, and the left singular vectors of G are those of R^T: no product of G with itself, which
    would square the condition.
    """
    gradients = torch.cat([torch.einsum("nto,nti->noi", g.double(), x.double()).flatten(1) for x, g in parts])
    triangle = gradients.new_zeros((0, len(gradients)))
    for block in gradients.T.split(_BLOCK):
        triangle = torch.linalg.qr(torch.cat([triangle, block]), mode="r").R
    left, values, _ = torch.linalg.svd(triangle.T)
    return gradients, torch.linalg.qr(gradients.T @ (left[:, :RANK] / values[:RANK])).Q


def largest_sine(one: Tensor, other: Tensor) -> float:
    """Of the largest principal angle between two subspaces, from orthonormal bases in float64."""
    return float(torch.linalg.matrix_norm(one - other @ (other.T @ one), ord=2))


def quality(null_space: NullSpaceProjection, found: Mapping[str, Bases]) -> dict[str, dict[str, float]]:
    """Of each arm's bases the angles and energies, as :class:`Calibration` has them."""
    captured = [
        captured_inputs_and_gradients(null_space.model, null_space.linears, batch)
        for batch in null_space.batches(SAMPLES)
    ]
    sines: dict[str, list[float]] = {arm: [] for arm in found}
    energies: dict[str, list[float]] = {arm: [] for arm in found}
    for name in null_space.linears:
        gradients, subspace = reference([part[name] for part in captured])
        for arm, bases in found.items():
            vectors = bases[name].vectors.double()
            sines[arm].append(largest_sine(vectors, subspace))
            energies[arm].append(float((gradients @ vectors).norm() ** 2 / gradients.norm() ** 2))
    return {
        arm: {
            "median_sine": statistics.median(sines[arm]),
            "largest_sine": max(sines[arm]),
            "captured_energy": statistics.mean(energies[arm]),
            "energy_told": statistics.mean(basis.captured_energy for basis in bases.values()),
        }
        for arm, bases in found.items()
    }


def measured(name: str, config: StageAConfig, rounds: int) -> list[Calibration]:
    """All arms on one base after two steps; at first the fusions' outputs are zero, and most gradients with them."""
    base = load_base_model(config)
    stage = stage_on(base, config)
    for _ in range(2):
        stage.train_step(measure=False)
    stage.optimizer.zero_grad(set_to_none=True)
    null_space = next(m for m in stage.retention.mechanisms if isinstance(m, NullSpaceProjection))
    for _ in null_space.batches(SAMPLES):  # features of all clips
        pass
    ways, memory, found = arms(null_space), dict[str, int](), dict[str, Bases]()
    for arm, way in ways.items():
        memory[arm] = peak_extra_bytes(lambda arm=arm, way=way: found.update({arm: way()}), _CPU)
    seconds = cpu_seconds(ways, rounds)
    judged = quality(null_space, found)
    trained = sum(module.weight.numel() for module in null_space.linears.values())
    size = sum(p.numel() for p in base.model.parameters())
    return [
        Calibration(
            base=f"{name}, {size / 1e6:.1f} M, {trained / 1e6:.2f} M trained",
            method=arm,
            extra_bytes=memory[arm],
            seconds=statistics.median(seconds[arm]),
            rounds=rounds,
            **judged[arm],
        )
        for arm in ways
    ]


def planned(data: Path, folder: Path) -> list[dict[str, Any]]:
    """LLaVA-1.5-13B under full retention by the dry run: as it was, as it is, and as it fits into 80 GB."""
    LLAVA_13B.save(folder, weights=False)
    as_it_was = mock.patch("safe_train.retention.null_space.gradient_subspace", sketched_subspace)
    with as_it_was:
        rows = [_described("sketch", plan_run(configuration_13b(data, folder)))]
    rows.append(_described("exact", plan_run(configuration_13b(data, folder))))
    with as_it_was:
        rows.append(_described("sketch, as it fits", plan_run(configuration_13b(data, folder, **FITTING))))
    rows.append(_described("exact, as it fits", plan_run(configuration_13b(data, folder, **FITTING))))
    return rows


def configuration_13b(data: Path, folder: Path, **changes: Any) -> StageAConfig:
    """bfloat16, five fusions of width 1,024, batches of 16 and 16, half of the audio rows with an image.

    Samples are as in a run: 128 for the null space, 256 for the Fisher diagonal.
    """
    settings = {
        "variant": "full_retention",
        "precision": "bf16",
        "model__base_model": folder,
        "model__fusion_layers": 5,
        "model__fusion_dim": 1024,
        "model__projector_hidden": 2048,
        "retention__fisher_start_ratio": 0.25,
        "retention__fisher_samples": 256,
        "retention__null_space_min_samples": SAMPLES,
    }
    return configuration(data, **(settings | changes))


FITTING = {
    "model__gradient_checkpointing": True,
    "optimization__audio_batch_size": 8,
    "optimization__vl_batch_size": 8,
    "optimization__gradient_accumulation_steps": 2,
}
"""What makes a step of 13 B fit into 80 GB and be the same step."""


def _described(method: str, plan: Plan) -> dict[str, Any]:
    """Sizes in bytes, arithmetic of one calibration."""
    calibrations = {name: phase.peak for name, phase in plan.calibrations.items()}
    return {
        "method": method,
        "trained": plan.trained,
        "held": plan.held_bytes,
        "frozen": plan.held["frozen base"],
        "step": plan.step.peak,
        **calibrations,
        "flops": plan.calibrations[NullSpaceProjection.name].cost.flops,
        "share_of_run": plan.calibrations[NullSpaceProjection.name].cost.flops
        * plan.num_calibrations[NullSpaceProjection.name]
        / plan.cost.flops,
    }


def markdown(rows: list[Calibration]) -> str:
    """One line a way to find the bases."""
    lines = [
        "| base | bases | memory, MB | CPU s | sine of the angle, median | largest | energy held / told |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.base} | {row.method} | {row.extra_bytes / 1e6:.1f} | {row.seconds:.3g} | {row.median_sine:.1e} | "
        f"{row.largest_sine:.1e} | {row.captured_energy:.4f} / {row.energy_told:.4f} |"
        for row in rows
    ]
    return "\n".join(lines)


def plan_markdown(rows: list[dict[str, Any]]) -> str:
    """One line a plan."""
    names = ["held", "step", "Fisher", NullSpaceProjection.name]
    lines = ["| 13 B | held, GiB | a step | calibration, Fisher | calibration, null space | share of the run's FLOP |"]
    lines.append("|---" * 6 + "|")
    lines += [
        f"| {row['method']} | {' | '.join(f'{row[name] / GIB:.1f}' for name in names)} | {row['share_of_run']:.1%} |"
        for row in rows
    ]
    return "\n".join(lines)


def settings_of(name: str, root: Path) -> dict[str, Any]:
    """What a base needs beyond the defaults; its folder is made."""
    if name == "embedded":
        return {}
    batches = {"optimization__audio_batch_size": 4, "optimization__vl_batch_size": 4}
    if name == "middle":
        random_base(MIDDLE, root / name)
        return {"model__base_model": root / name} | batches
    return larger_settings(root / name)


def main() -> None:
    """Measures what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["embedded", "middle", "larger", "13b"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="JSON; other parts that it holds already are kept")
    options = parser.parse_args()
    torch.set_num_threads(1)  # several wait actively for each other, which is CPU time of no work
    kept = json.loads(options.output.read_text()) if options.output is not None and options.output.exists() else {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        data = data_folder(root / "data")
        for part in options.parts:
            if part == "13b":
                kept[part] = planned(data, root / part)
                print(plan_markdown(kept[part]), flush=True)
                write(kept, options.output)
                continue
            settings = settings_of(part, root) | {"retention__null_space_min_samples": SAMPLES}
            config = configuration(data, variant="nullspace_retention", **settings)
            rows = measured(part, config, 1 if part == "larger" else options.rounds)
            kept[part] = [asdict(row) for row in rows]
            print(markdown(rows), flush=True)
            write(kept, options.output)


def write(found: dict[str, Any], output: Path | None) -> None:
    """What was found so far, as JSON."""
    if output is not None:
        described = {"threads": torch.get_num_threads(), "torch": torch.__version__}
        output.write_text(json.dumps(found | described, indent=2) + "\n")


if __name__ == "__main__":
    main()
