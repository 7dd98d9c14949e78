"""Chooses each arm's learning rate by one rule, on rows and seeds that no evaluation sees."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.arms import EARLY_STOPPED, Settings, chosen_arms, folder_name, is_tuned, rate_settings
from experiments.runs import Job, finished_run, make
from experiments.tables import Figures, worst_change
from safe_train.configs.model_configs import REAL
from safe_train.embedded.dataset import DatasetSizes, embedded_data_root
from safe_train.errors import InputError
from safe_train.report.summary import read_summary

GRID = (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
"""Learning rates, of projectors and fusions alike."""

SEEDS = (7, 8)
"""Seeds of the tuning; the evaluation has others."""

TUNING_SPLIT = "tune"
TUNING_SIZES = DatasetSizes(tune_questions=500, tune_clips=200, tune_text=250, tune_documents=50)
"""The procedural data with rows for tuning beside those of the training and the validation, which stay the same."""

WITHIN = 1.0
"""Points of audio accuracy below the arm's best within which a setting counts as hearing."""

RULE = (
    "of the settings whose matched audio accuracy is within one point of the arm's best, the one that loses least in "
    "its worst condition on VL rows and text-only questions; of equal ones the one that hears more, then the lower rate"
)

_DIGITS = 9  # means of multiples of 1/400 that are equal may differ in the last bits


@dataclass(frozen=True)
class Point:
    """What an arm does at one setting on the rows for tuning, means over the tuning's seeds.

    Attributes:
        rate: learning rate.
        audio: matched accuracy in percent.
        worst: change in points under the condition that loses most.
        condition: that condition.
        step: of the checkpoint; None for the last.
    """

    rate: float
    audio: float
    worst: float
    condition: str = ""
    step: int | None = None


def choose(points: Sequence[Point], within: float = WITHIN) -> Point:
    """The setting of an arm by :data:`RULE`, the same rule for every arm; of equal ones the earlier step comes last.

    Args:
        points: the settings that are chosen from.
        within: points of audio accuracy that a setting may hear less than the best.

    Raises:
        ValueError: there is no point.
    """
    if not points:
        raise ValueError("expected at least one point, got none")
    least = round(max(point.audio for point in points) - within, _DIGITS)
    heard = [point for point in points if round(point.audio, _DIGITS) >= least]
    return max(
        heard,
        key=lambda point: (round(point.worst, _DIGITS), round(point.audio, _DIGITS), -point.rate, -(point.step or 0)),
    )


def point_of(rate: float, evaluations: Sequence[Figures], step: int | None = None) -> Point:
    """The point of a setting from its evaluations, one a seed, as ``metrics.json`` holds them."""
    audio = [100 * evaluation["audio"]["matched"]["accuracy"]["mean"] for evaluation in evaluations]
    worst, condition = worst_change(evaluations)
    return Point(rate, sum(audio) / len(audio), worst, condition, step)


def tuning_settings(settings: Mapping[str, str]) -> Settings:
    """Settings by which a run is evaluated on the rows for tuning.

    Args:
        settings: of the run; the real data have such rows beside the others, the procedural ones get them.
    """
    split = {"data.val_split": TUNING_SPLIT}
    return (
        split
        if settings.get("model.config") == REAL.name
        else split | {"data.root": str(embedded_data_root(TUNING_SIZES))}
    )


def grid_jobs(
    named: Mapping[str, Settings], rates: Sequence[float], seeds: Sequence[int], root: Path, title: str
) -> list[Job]:
    """A run for each arm, rate and seed, in ``root/<arm>/<rate>/<seed>``, evaluated on the rows for tuning."""
    return [
        Job(
            f"{title}, {name}, {rate:g}, seed {seed}",
            settings | tuning_settings(settings) | rate_settings(rate) | {"seed": str(seed)},
            root / folder_name(name) / f"{rate:g}" / str(seed),
            name in EARLY_STOPPED,
        )
        for seed in seeds
        for name, settings in named.items()
        for rate in rates
    ]


def tune(
    regime: str, only: Sequence[str] | None, rates: Sequence[float], seeds: Sequence[int], root: Path, workers: int
) -> None:
    """Runs the grid for the arms of a regime, in ``root/<regime>``.

    Raises:
        InputError: an arm is unknown or has a learning rate of its own, or a run fails.
    """
    named = chosen_arms(regime, only, extras=False)
    for name in only or ():
        if not is_tuned(named[name]):
            raise InputError("--arms", "arms whose learning rate is open", repr(name), "leave it out")
    open_arms = {name: settings for name, settings in named.items() if is_tuned(settings)}
    make(grid_jobs(open_arms, rates, seeds, root / regime, regime), workers)


def tuned(root: Path, regime: str) -> dict[str, Figures]:
    """What the grid's finished runs say of each arm: its points, each seed's figures, and the choice.

    Raises:
        InputError: rates of an arm were run with different seeds.
    """
    found: dict[str, Figures] = {}
    for name, settings in chosen_arms(regime).items():
        evaluations = grid_evaluations(root / regime / folder_name(name)) if is_tuned(settings) else {}
        if not evaluations:
            continue
        seeds = sorted({seed for by_seed in evaluations.values() for seed in by_seed})
        for rate, by_seed in evaluations.items():
            if sorted(by_seed) != seeds:
                place, got = root / regime / folder_name(name) / f"{rate:g}", f"{sorted(by_seed)}"
                raise InputError(place, f"runs with the seeds {seeds}", got, "run tune again with these seeds")
        points = {rate: point_of(rate, list(by_seed.values())) for rate, by_seed in evaluations.items()}
        best = choose(list(points.values()))
        found[name] = {
            "chosen": best.rate,
            "at_edge": len(points) > 1 and best.rate in (min(points), max(points)),
            "seeds": seeds,
            "points": [
                asdict(points[rate])
                | {"by_seed": {seed: _seed_figures(rate, result) for seed, result in by_seed.items()}}
                for rate, by_seed in evaluations.items()
            ],
        }
    return found


def grid_evaluations(folder: Path) -> dict[float, dict[int, Figures]]:
    """Evaluations of an arm's finished runs by rate and seed, both ascending."""
    found: dict[float, dict[int, Figures]] = {}
    for job in folder.glob("*/*"):
        if run := finished_run(job):
            metrics = read_summary(run).metrics
            found.setdefault(float(job.parent.name), {})[metrics["seed"]] = metrics["evaluation"]
    return {rate: dict(sorted(by_seed.items())) for rate, by_seed in sorted(found.items())}


def read_rates(path: Path, regime: str) -> dict[str, float]:
    """The chosen rates of a regime by arm, from a file that ``tune`` has written.

    Raises:
        InputError: it cannot be read, or does not hold the regime.
    """
    return {name: float(arm["chosen"]) for name, arm in read_tuning(path, regime).items()}


def read_tuning(path: Path, regime: str) -> dict[str, Figures]:
    """The grid's figures and choices of a regime, by arm.

    Raises:
        InputError: the file cannot be read, or does not hold the regime.
    """
    hint = f"make it with: python -m experiments.ablation tune --regime {regime}"
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        return content["regimes"][regime]
    except (OSError, ValueError, KeyError, TypeError) as error:
        got = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise InputError(path, f"the tuned learning rates of {regime!r}", got, hint) from error


def tuning_markdown(by_arm: Mapping[str, Figures]) -> str:
    """Audio and worst change by arm and rate; the choice is bold, and told where it lies at the grid's edge."""
    rates = sorted({point["rate"] for arm in by_arm.values() for point in arm["points"]})
    lines = [f"| arm | {' | '.join(f'{rate:g}' for rate in rates)} | |", "|" + "---|" * (len(rates) + 2)]
    for name, arm in by_arm.items():
        cells = dict.fromkeys(rates, "")
        for point in arm["points"]:
            text = f"{point['audio']:.1f} % / {point['worst']:+.1f}"
            cells[point["rate"]] = f"**{text}**" if point["rate"] == arm["chosen"] else text
        lines.append(f"| {name} | {' | '.join(cells.values())} | {'at the edge' if arm['at_edge'] else ''} |")
    return "\n".join(lines)


def _seed_figures(rate: float, evaluation: Figures) -> Figures:
    point = point_of(rate, [evaluation])
    return {"audio": point.audio, "worst": point.worst, "condition": point.condition}
