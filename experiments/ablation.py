"""The ablation on the embedded model: variants, and ways of projecting, over seeds, in two regimes.

    python -m experiments.ablation run --regime plentiful --seeds 42 43 44 --output-root runs/ablation
    python -m experiments.ablation table runs/ablation --json docs/results/ablation.json

``run`` trains every arm; an arm that has already finished is not run again. ``table`` prints means over seeds.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from configs.retention_variants import RETENTION_VARIANTS
from safe_train.summary import RunSummary, read_summary

CONDITIONS = ("silence", "distractor", "contradictory", "loud", "noise", "worst_of_4")
_EVALUATION = {
    "evaluation.conditions": json.dumps(CONDITIONS),
    "evaluation.max_vl": "500",
    "evaluation.max_audio": "200",
}
_SCARCE = {"data.max_train_vl": "100", "retention.retention_scale": "0.05"}
REGIMES: dict[str, dict[str, str]] = {"plentiful": _EVALUATION, "scarce": _EVALUATION | _SCARCE}
"""``plentiful``: the defaults, 2,000 protected rows. ``scarce``: 100 rows and a twentieth of the retention weight."""

MAIN = ("no_retention", "soft_retention", "fisher_retention", "nullspace_retention", "full_retention")
_LORA = {"model.lora_rank": "8"}
EXTRA: dict[str, dict[str, dict[str, str]]] = {
    "plentiful": {
        "fisher_only": {"variant": "fisher_only"},
        "nullspace_only": {"variant": "nullspace_only"},
        "replay_only": {"variant": "replay_only"},
        "no_retention, LoRA": {"variant": "no_retention"} | _LORA,
        "full_retention, LoRA": {"variant": "full_retention"} | _LORA,
        "full_retention, shuffled audio": {"variant": "full_retention", "data.shuffle_audio": "true"},
    },
    "scarce": {
        "replay_only": {"variant": "replay_only"},
        "full_retention, mixed audio": {
            "variant": "full_retention",
            "data.silence_share": "0.15",
            "data.loud_share": "0.15",
            "data.noise_share": "0.1",
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
"""Beside the five variants: mechanisms alone, controls, and other settings of the null space and the protected rows."""


def arms(regime: str) -> dict[str, dict[str, str]]:
    """Every arm of a regime by name, with its settings; the five variants come first."""
    named = {name: {"variant": name} for name in MAIN} | EXTRA[regime]
    return {name: REGIMES[regime] | settings for name, settings in named.items()}


def run_all(regime: str, seeds: Sequence[int], root: Path) -> None:
    """Trains every arm with every seed, each in a process and a folder of its own, in turn."""
    for seed in seeds:
        for name, settings in arms(regime).items():
            folder = root / regime / _folder_name(name) / str(seed)
            if any(folder.glob("*/metrics.json")):
                continue
            assignments = [f"{key}={value}" for key, value in (settings | {"seed": str(seed)}).items()]
            options = [part for assignment in assignments for part in ("--set", assignment)]
            command = [sys.executable, "-c", "from safe_train.cli import train; train()", *options]
            subprocess.run([*command, "--output-root", str(folder)], check=True)


def read_all(root: Path) -> dict[str, dict[str, list[RunSummary]]]:
    """Finished runs by regime and arm."""
    found: dict[str, dict[str, list[RunSummary]]] = {}
    for regime in REGIMES:
        by_arm = defaultdict(list)
        for name in arms(regime):
            for metrics in sorted((root / regime / _folder_name(name)).glob("*/*/metrics.json")):
                by_arm[name].append(read_summary(metrics.parent))
        found[regime] = dict(by_arm)
    return found


def row(runs: Sequence[RunSummary]) -> dict[str, Any]:
    """Means over the runs of an arm; changes from the base are kept for each seed."""
    evaluations = [run.metrics["evaluation"] for run in runs]
    silence, distractor = (
        [100 * e["vl"][condition]["difference"]["mean"] for e in evaluations] for condition in ("silence", "distractor")
    )
    return {
        "seeds": [run.metrics["seed"] for run in runs],
        "vl_base": _mean([100 * e["base"]["mean"] for e in evaluations]),
        "vl_silence": silence,
        "vl_distractor": distractor,
        "worst": min(*silence, *distractor),
        "answer_change_rate": _mean([100 * e["vl"]["distractor"]["answer_change_rate"] for e in evaluations]),
        "kl": _mean([e["vl"]["distractor"]["kl"] for e in evaluations]),
        "audio": _mean([100 * e["audio"]["matched"]["accuracy"]["mean"] for e in evaluations]),
        "audio_silence": _mean([100 * e["audio"]["silence"]["accuracy"]["mean"] for e in evaluations]),
        "audio_distractor": _mean([100 * e["audio"]["distractor"]["accuracy"]["mean"] for e in evaluations]),
        "bypass_bit_equal": all(e["vl"]["bypass"]["bit_equal"] for e in evaluations),
        "fusion_calls": min(e["vl"]["distractor"]["fusion_calls"] for e in evaluations),
        "training_seconds": _mean([run.metrics["training"]["seconds"] for run in runs]),
    }


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    """The rows as a Markdown table; changes from the base in points, mean and range over seeds."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    for name, values in rows.items():
        cells = (
            name,
            str(len(values["seeds"])),
            _spread(values["vl_silence"]),
            _spread(values["vl_distractor"]),
            f"{values['worst']:+.1f}",
            f"{values['answer_change_rate']:.1f} %",
            f"{values['kl']:.4f}",
            f"{values['audio']:.1f} %",
            f"{values['audio_silence']:.1f} %",
            f"{values['audio_distractor']:.1f} %",
            f"{values['training_seconds']:.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Runs or tabulates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train every arm of a regime")
    run.add_argument("--regime", choices=REGIMES, default="plentiful")
    run.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    run.add_argument("--output-root", type=Path, default=Path("runs/ablation"))
    table = commands.add_parser("table", help="print means over seeds")
    table.add_argument("root", type=Path)
    table.add_argument("--json", type=Path, help="also write the rows to this file")
    arguments = parser.parse_args()
    if arguments.command == "run":
        run_all(arguments.regime, arguments.seeds, arguments.output_root)
        return
    rows = {
        regime: {name: row(runs) for name, runs in by_arm.items()}
        for regime, by_arm in read_all(arguments.root).items()
    }
    for regime, by_arm in rows.items():
        print(f"\n{regime}\n\n{markdown(by_arm)}")
    if arguments.json is not None:
        versions = {package: version(package) for package in ("safe-audio", "torch", "transformers")}
        machine = {"platform": platform.platform(), "python": platform.python_version()}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        content = {"machine": machine, "versions": versions, "regimes": rows}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _folder_name(arm: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in arm)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _spread(values: Sequence[float]) -> str:
    return f"{_mean(values):+.1f} ({min(values):+.1f} to {max(values):+.1f})"


if __name__ == "__main__":
    main()
