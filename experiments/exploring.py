"""Looks at a regime with a few arms, rates and seeds, on the rows for tuning, before anything is claimed of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.arms import Settings, folder_name
from experiments.runs import make
from experiments.tables import Figures, changes
from experiments.tuning import grid_evaluations, grid_jobs

ARMS = ("no_retention", "soft_retention", "full_retention", "replay_only")
"""What is tried unless arms are named."""


def explore(
    name: str,
    named: Mapping[str, Settings],
    rates: Sequence[float],
    seeds: Sequence[int],
    root: Path,
    workers: int,
) -> str:
    """Runs the arms and tells, means over seeds, the worst change on VL rows and on text-only questions, and audio.

    Args:
        name: of the folder in ``root`` in which the runs are kept.
        named: settings by arm.
        rates: learning rates.
        seeds: of the tuning, not of the evaluation.
        root: folder of all explorations.
        workers: runs at a time.

    Raises:
        InputError: a run fails, or the folder holds one with other settings.
    """
    make(grid_jobs(named, rates, seeds, root / name, name), workers)
    lines = ["| arm | rate | seeds | worst, VL | worst, text | audio |", "|---|---|---|---|---|---|"]
    for arm in named:
        for rate, by_seed in grid_evaluations(root / name / folder_name(arm)).items():
            evaluations = list(by_seed.values())
            worst = (_worst(evaluations, part) for part in ("vl", "text"))
            heard = sum(100 * found["audio"]["matched"]["accuracy"]["mean"] for found in evaluations) / len(evaluations)
            lines.append(f"| {arm} | {rate:g} | {len(by_seed)} | {' | '.join(worst)} | {heard:.1f} % |")
    return "\n".join(lines)


def _worst(evaluations: Sequence[Figures], part: str) -> str:
    means = {
        name: sum(100 * difference["mean"] for difference in found) / len(found)
        for name, found in changes(evaluations, part).items()
    }
    if not means:
        return ""
    worst = min(means, key=means.__getitem__)
    return f"{means[worst]:+.1f} {worst.replace('_', ' ')}"
