"""The ablation on the embedded model: variants, mechanisms alone and controls, over seeds, in two regimes.

    python -m experiments.ablation run --regime plentiful --output-root runs/ablation
    python -m experiments.ablation run --regime scarce --output-root runs/ablation
    python -m experiments.ablation table runs/ablation --json docs/results/ablation.json

``run`` trains and evaluates every arm with five seeds; an arm that has already finished is not run again. ``table``
prints means over seeds. ``safe report runs/ablation/plentiful`` makes the page.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safe_train.errors import InputError
from safe_train.evaluation.key import versions
from safe_train.files import json_text, write_text
from safe_train.metrics.intervals import Estimate
from safe_train.report.seeds import over_seeds
from safe_train.summary import RunSummary, read_summary

CONDITIONS = ("silence", "distractor", "contradictory", "loud", "noise", "worst_of_4")
_COMMON = {
    "evaluation.conditions": json.dumps(CONDITIONS),
    "evaluation.max_vl": "500",
    "evaluation.max_audio": "200",
}
_SCARCE = {"data.max_train_vl": "100", "retention.retention_scale": "0.05"}
REGIMES: dict[str, dict[str, str]] = {"plentiful": _COMMON, "scarce": _COMMON | _SCARCE}
"""``plentiful``: 2,000 protected rows, the registered weights. ``scarce``: 100 rows and a twentieth of the weight."""

MAIN = ("no_retention", "soft_retention", "fisher_retention", "nullspace_retention", "full_retention")
_LORA = {"model.lora_rank": "8"}
_NO_SILENCE = {"data.silence_share": "0"}
_ALONE: dict[str, dict[str, dict[str, str]]] = {
    "plentiful": {
        "full_retention, no silent rows": {"variant": "full_retention"},
        "fisher_only": {"variant": "fisher_only"},
        "nullspace_only": {"variant": "nullspace_only"},
        "replay_only": {"variant": "replay_only"},
        "no_retention, LoRA": {"variant": "no_retention"} | _LORA,
        "full_retention, LoRA": {"variant": "full_retention"} | _LORA,
        "full_retention, shuffled audio": {"variant": "full_retention", "data.shuffle_audio": "true"},
    },
    "scarce": {
        "soft_retention, no silent rows": {"variant": "soft_retention"},
        "fisher_retention, no silent rows": {"variant": "fisher_retention"},
        "nullspace_retention, no silent rows": {"variant": "nullspace_retention"},
        "full_retention, no silent rows": {"variant": "full_retention"},
        "replay_only": {"variant": "replay_only"},
        **{
            f"nullspace, {projected.replace('_', ' ')}": {
                "variant": "nullspace_retention",
                "retention.null_space_projects": projected,
            }
            for projected in ("update", "audio_gradient", "total_gradient")
        },
        "nullspace, audio update, two-sided": {
            "variant": "nullspace_retention",
            "retention.null_space_one_sided": "false",
        },
        "nullspace, activation subspace": {
            "variant": "nullspace_retention",
            "retention.null_space_one_sided": "false",
            "retention.null_space_subspace": "activation",
        },
    },
}
_MIXED = {"data.silence_share": "0.15", "data.loud_share": "0.15", "data.noise_share": "0.1"}
EXTRA: dict[str, dict[str, dict[str, str]]] = {
    regime: {name: settings | _NO_SILENCE for name, settings in by_name.items()} for regime, by_name in _ALONE.items()
}
EXTRA["scarce"]["full_retention, mixed audio"] = {"variant": "full_retention"} | _MIXED
"""Beside the five variants: mechanisms alone, controls, and other settings of the null space and the protected rows.

In these arms no protected row hears silence, unless the arm says otherwise.
"""


def arms(regime: str) -> dict[str, dict[str, str]]:
    """Every arm of a regime by name, with its settings; the five variants come first."""
    named = {name: {"variant": name} for name in MAIN} | EXTRA[regime]
    return {name: REGIMES[regime] | settings for name, settings in named.items()}


def run_all(regime: str, seeds: Sequence[int], root: Path, only: Sequence[str] | None = None) -> None:
    """Trains arms with every seed, each in a process and a folder of its own, in turn.

    Raises:
        InputError: an arm is unknown.
    """
    known = arms(regime)
    for name in only or ():
        if name not in known:
            raise InputError("--arms", f"some of {', '.join(map(repr, known))}", repr(name), "name one of them")
    for seed in seeds:
        for name in only or known:
            settings, folder = known[name], root / regime / _folder_name(name) / str(seed)
            if any(folder.glob("*/metrics.json")):
                continue
            assignments = [f"{key}={value}" for key, value in (settings | {"seed": str(seed)}).items()]
            options = [part for assignment in assignments for part in ("--set", assignment)]
            command = [sys.executable, "-m", "safe_train", *options]
            subprocess.run([*command, "--output-root", str(folder)], check=True)


def read_all(root: Path) -> dict[str, dict[str, list[RunSummary]]]:
    """Finished runs by regime and arm, seeds ascending."""
    found: dict[str, dict[str, list[RunSummary]]] = {}
    for regime in REGIMES:
        by_arm = defaultdict(list)
        for name in arms(regime):
            for metrics in (root / regime / _folder_name(name)).glob("*/*/metrics.json"):
                by_arm[name].append(read_summary(metrics.parent))
        found[regime] = {name: sorted(runs, key=lambda run: run.metrics["seed"]) for name, runs in by_arm.items()}
    return found


def row(runs: Sequence[RunSummary]) -> dict[str, Any]:
    """An arm over its seeds: changes from the base in points by condition, hearing in percent."""
    evaluations = [run.metrics["evaluation"] for run in runs]
    changes = {name: _over_seeds([e["vl"][name]["difference"] for e in evaluations]) for name in CONDITIONS}
    worst = min(changes, key=lambda name: changes[name]["mean"])
    return {
        "seeds": [run.metrics["seed"] for run in runs],
        "vl_rows": [e["vl"]["bypass"]["rows"] for e in evaluations],
        "vl_base": _over_seeds([e["base"] for e in evaluations]),
        "vl_change": changes,
        "worst_condition": worst,
        "worst_seed": min(min(change["by_seed"]) for change in changes.values()),
        "answer_change_rate": _mean([100 * e["vl"][worst]["answer_change_rate"] for e in evaluations]),
        "kl": _mean([e["vl"][worst]["kl"] for e in evaluations]),
        "audio": _over_seeds([e["audio"]["matched"]["accuracy"] for e in evaluations]),
        "audio_gain": _over_seeds([e["audio_gain"]["silence"] for e in evaluations]),
        "bypass_bit_equal": all(e["vl"]["bypass"]["bit_equal"] for e in evaluations),
        "is_measurement": all(e["vl"][name]["is_measurement"] for e in evaluations for name in CONDITIONS),
        "training_seconds": _mean([run.metrics["training"]["seconds"] for run in runs]),
    }


def markdown(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows as a Markdown table: means over seeds; the worst condition with its 95 % interval over seeds."""
    columns = ("arm", "seeds", *(name.replace("_", " ") for name in CONDITIONS), "worst", "worst seed", "audio", "gain")
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for name, values in rows.items():
        worst = values["vl_change"][values["worst_condition"]]
        cells = (
            name,
            str(len(values["seeds"])),
            *(f"{values['vl_change'][condition]['mean']:+.1f}" for condition in CONDITIONS),
            f"{worst['mean']:+.1f} ({worst['low']:+.1f} to {worst['high']:+.1f})",
            f"{values['worst_seed']:+.1f}",
            f"{values['audio']['mean']:.1f} %",
            f"{values['audio_gain']['mean']:+.1f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    return {"platform": platform.platform(), "processors": os.cpu_count()}


def main() -> None:
    """Runs or tabulates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train every arm of a regime")
    run.add_argument("--regime", choices=REGIMES, default="plentiful")
    run.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44, 45, 46])
    run.add_argument("--arms", nargs="+", metavar="ARM", help="only these")
    run.add_argument("--output-root", type=Path, default=Path("runs/ablation"))
    table = commands.add_parser("table", help="print means over seeds")
    table.add_argument("root", type=Path)
    table.add_argument("--json", type=Path, help="also write the rows to this file")
    arguments = parser.parse_args()
    if arguments.command == "run":
        run_all(arguments.regime, arguments.seeds, arguments.output_root, arguments.arms)
        return
    rows = {
        regime: {name: row(runs) for name, runs in by_arm.items()}
        for regime, by_arm in read_all(arguments.root).items()
    }
    for regime, by_arm in rows.items():
        print(f"\n{regime}\n\n{markdown(by_arm)}")
    if arguments.json is not None:
        content = {"machine": machine(), "versions": versions(), "conditions": CONDITIONS, "regimes": rows}
        write_text(arguments.json, json_text(content))


def _folder_name(arm: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in arm)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _over_seeds(estimates: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Mean over seeds in percent, the limits of :func:`~safe_train.report.seeds.over_seeds`, and each seed's mean."""
    interval = over_seeds([Estimate(**estimate) for estimate in estimates])
    scaled = {limit: 100 * getattr(interval, limit) for limit in ("mean", "low", "high")}
    return scaled | {"limits": interval.kind, "by_seed": [100 * estimate["mean"] for estimate in estimates]}


if __name__ == "__main__":
    main()
