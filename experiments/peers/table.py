"""The table of the peers: means over the reported seeds, with 95 % intervals, at each arm's chosen setting.

python -m experiments.peers.table docs/results/peers.jsonl
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import binomtest, t

from experiments.peers.arms import ARMS
from experiments.peers.run import CHOOSING_SEEDS, Line, chosen, read_lines
from experiments.peers.skills import HELD_OUT, NEW, PROTECTED, UNPROTECTED
from safe_train.errors import InputError
from safe_train.metrics.intervals import Estimate
from safe_train.report.seeds import over_seeds

_GROUPS = {"new": (NEW,), "protected": PROTECTED, "not protected": UNPROTECTED}


def shares(lines: Sequence[Line]) -> dict[str, list[float]]:
    """By group of skills, the mean share right in percent, one a seed in the order of the seeds."""
    ordered = sorted(lines, key=lambda line: line["seed"])
    return {
        group: [100 * float(np.mean([line["right"][skill] for skill in skills])) for line in ordered]
        for group, skills in _GROUPS.items()
    }


_REFERENCE = "replay_only"


def table(lines: Sequence[Line], kept: int) -> str:
    """Markdown: an arm a row, for so many kept rows a skill.

    The last column has the difference from ``replay_only`` in the mean of what is new and what is protected, seed by
    seed: each seed is another base.
    """
    columns = ["arm", "trains", "old rows", "chosen", *(f"{group}, %" for group in _GROUPS)]
    columns.append("mean of new and protected, against replay")
    reference = _both([line for line in lines if _which(line) == (_REFERENCE, kept, "test")])
    rows = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for arm in ARMS.values():
        tested = [line for line in lines if _which(line) == (arm.name, kept, "test")]
        if not tested:
            continue
        name = f"`{arm.name}`" if arm.source == "SAFE" else f"{arm.name} ({arm.source})".removesuffix(" ()")
        setting = ", ".join(f"{key} {value:g}" for key, value in chosen(arm, kept, lines).items())
        rows_of = {group: HELD_OUT * len(skills) for group, skills in _GROUPS.items()}
        cells = [_cell(values, rows_of[group]) for group, values in shares(tested).items()]
        both = _both(tested)
        cells.append(_difference([both[seed] - reference[seed] for seed in sorted(both.keys() & reference.keys())]))
        old = "yes" if arm.needs_old_rows else "no"
        rows.append(f"| {' | '.join([name, arm.trains, old, setting, *cells])} |")
    return "\n".join(rows)


def _which(line: Line) -> tuple[str, int, str]:
    return line["arm"], line["kept"], line["part"]


def _both(lines: Sequence[Line]) -> dict[int, float]:
    """By seed, the mean of the shares of the new skill and of the protected ones, in percent."""
    ordered, found = sorted(lines, key=lambda line: line["seed"]), shares(lines)
    pairs = zip(ordered, found["new"], found["protected"], strict=True)
    return {line["seed"]: (new + protected) / 2 for line, new, protected in pairs}


def _difference(points: Sequence[float]) -> str:
    if len(points) < 2 or not any(points):
        return ""
    half = float(t.ppf(0.975, len(points) - 1)) * float(np.std(points, ddof=1)) / len(points) ** 0.5
    return f"{np.mean(points):+.1f} ({np.mean(points) - half:+.1f} to {np.mean(points) + half:+.1f})"


def _cell(percent: Sequence[float], num_rows: int) -> str:
    """Mean and interval: over the seeds, or, where all seeds agree, the exact one of a seed's rows."""
    estimates = []
    for value in percent:
        found = binomtest(round(value / 100 * num_rows), num_rows).proportion_ci()
        estimates.append(Estimate(value, 100 * found.low, 100 * found.high))
    found = over_seeds(estimates)
    return f"{found.mean:.1f} ({max(found.low, 0.0):.1f} to {min(found.high, 100.0):.1f})"


def require_choices(lines: Sequence[Line]) -> None:
    """Every reported arm was chosen on all choosing seeds, with all of its settings.

    Raises:
        InputError: one was not.
    """
    for arm, kept in {(line["arm"], line["kept"]) for line in lines if line["part"] == "test"}:
        found = [line for line in lines if _which(line) == (arm, kept, "validation")]
        expected = len(ARMS[arm].settings) * len(CHOOSING_SEEDS)
        if len(found) != expected:
            raise InputError(f"{arm}, {kept} rows", f"{expected} lines of validation", str(len(found)), "run it again")


def main() -> None:
    """Prints a table for each number of kept rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", help="files of experiments.peers.run")
    lines = [line for path in parser.parse_args().results for line in read_lines(path)]
    require_choices(lines)
    for kept in sorted({line["kept"] for line in lines}):
        seeds = sorted({line["seed"] for line in lines if line["kept"] == kept and line["part"] == "test"})
        print(f"\n{kept} rows a protected skill are kept; seeds {', '.join(map(str, seeds))}:\n\n{table(lines, kept)}")


if __name__ == "__main__":
    main()
