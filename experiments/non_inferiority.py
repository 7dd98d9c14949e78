"""Non-inferiority of `full_retention` to the base, on the embedded model, with as many questions as it takes.

    python -m experiments.non_inferiority run --output-root runs/non_inferiority
    python -m experiments.non_inferiority run --silence-share 0 --output-root runs/non_inferiority
    python -m experiments.non_inferiority table runs/non_inferiority --json docs/results/non_inferiority.json

The margin is ``evaluation.margin``, declared before: 0.5 points. Only a fifth of the questions have a clip that
contradicts them: that condition is measured on 40,000 questions, the others on the first 10,000 of these. Text-only
questions are as many as the procedural data have for validation, and at most 10,000.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.ablation import CONDITIONS, machine
from experiments.runs import require_finished
from safe_train.cli.errors import one_line_errors
from safe_train.data.settings import DataSettings
from safe_train.embedded.dataset import DatasetSizes, embedded_data_root
from safe_train.evaluation.fingerprint import versions
from safe_train.io.files import json_text, write_text
from safe_train.report.summary import RunSummary, read_summary

QUESTIONS = 10_000
CONTRADICTED = 40_000
"""Questions of which those that have a contradicting clip are asked."""

_DEFAULT_SHARE = f"{DataSettings().silence_prob:g}"

Figures = dict[str, Any]


def run_all(share: str, seeds: Sequence[int], questions: int, contradicted: int, root: Path) -> None:
    """Trains and evaluates with every seed, each in a process of its own; what is finished is not done again.

    Args:
        share: of the protected rows that hear silence.
        seeds: one run each.
        questions: validation questions.
        contradicted: the same for the contradictory condition.
        root: a run's folder is made in ``root/<share>/<seed>``.
    """
    settings = {
        "data.root": str(embedded_data_root(DatasetSizes(val_questions=questions))),
        "data.silence_prob": share,
        "evaluation.max_vl": str(questions),
        "evaluation.max_text": str(questions),
        "evaluation.conditions": json.dumps(CONDITIONS),
    }
    for seed in seeds:
        folder = root / share / str(seed)
        if not any(folder.glob("*/metrics.json")):
            options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
            command = [sys.executable, "-m", "safe_train", "--variant", "full_retention", "--seed", str(seed)]
            subprocess.run([*command, *options, "--output-root", str(folder)], check=True)
        if contradicted > questions:
            for path in folder.glob("*/metrics.json"):
                _ask_more(path.parent, contradicted)


def _ask_more(run: Path, questions: int) -> None:
    """Evaluates the contradictory condition on more questions; answers that are there already are kept."""
    data = embedded_data_root(DatasetSizes(val_questions=questions))
    command = [sys.executable, "-c", "from safe_train.cli import safe; safe()", "eval", str(run)]
    options = ("--data-root", str(data), "--max-vl", str(questions), "--conditions", "contradictory")
    subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)


def read_all(root: Path) -> dict[str, list[RunSummary]]:
    """Finished runs by share of silence, seeds ascending."""
    found: dict[str, list[RunSummary]] = {}
    for path in sorted(root.glob("*/*/*/metrics.json")):
        found.setdefault(path.parts[-4], []).append(read_summary(path.parent))
    return {share: sorted(runs, key=lambda run: run.metrics["seed"]) for share, runs in found.items()}


def figures(run: RunSummary, part: str = "vl") -> dict[str, Figures]:
    """By condition: rows, change from the base and its lower limit in points, and what the test says.

    Args:
        run: a finished run.
        part: ``vl`` or ``text``; conditions that it has no row of are left out.
    """
    found = {name: _with_most_rows(run, part, name) for name in CONDITIONS}
    return {name: _figures(result) for name, result in found.items() if result is not None}


def markdown(by_seed: Mapping[int, Mapping[str, Figures]]) -> str:
    """A line for each seed: change and one-sided 97.5 % limit; * where a loss of the margin is not ruled out."""
    names = [name for name in CONDITIONS if any(name in by_condition for by_condition in by_seed.values())]
    columns = ("seed", *(name.replace("_", " ") for name in names))
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for seed, by_condition in by_seed.items():
        cells = [str(seed), *(_cell(by_condition[name]) if name in by_condition else "" for name in names)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@one_line_errors
def main() -> None:
    """Runs or tabulates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train and evaluate with every seed")
    run.add_argument("--silence-share", default=_DEFAULT_SHARE, help="share of the protected rows that hear silence")
    run.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44, 45, 46])
    run.add_argument("--questions", type=int, default=QUESTIONS)
    run.add_argument("--contradicted", type=int, default=CONTRADICTED, help="questions for the contradictory condition")
    run.add_argument("--output-root", type=Path, default=Path("runs/non_inferiority"))
    table = commands.add_parser("table", help="print a line for each seed")
    table.add_argument("root", type=Path)
    table.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    if arguments.command == "run":
        questions = arguments.questions, arguments.contradicted
        run_all(arguments.silence_prob, arguments.seeds, *questions, arguments.output_root)
        return
    runs_by_share = read_all(arguments.root)
    require_finished(runs_by_share, arguments.root)
    by_share, of_text = (
        {share: {run.metrics["seed"]: figures(run, part) for run in runs} for share, runs in runs_by_share.items()}
        for part in ("vl", "text")
    )
    for share, by_seed in by_share.items():
        print(f"\nsilence share {share}\n\n{markdown(by_seed)}")
        if any(of_text[share].values()):
            print(f"\nsilence share {share}, text-only questions\n\n{markdown(of_text[share])}")
    if arguments.json is not None:
        content = {
            "machine": machine(),
            "question": "full_retention against the base",
            "versions": versions(),
            "units": "points",
            "silence_prob": by_share,
            "text_only": of_text,
        }
        write_text(arguments.json, json_text(content))


def _with_most_rows(run: RunSummary, part: str, condition: str) -> Mapping[str, Any] | None:
    """A condition's result in the training's own evaluation, or in a later one with more rows; None without rows."""
    evaluations = [run.metrics["evaluation"]]
    assert run.folder is not None  # a summary that was read from a folder
    for path in sorted(run.folder.glob("evaluation/*/results.json")):
        evaluations.append(json.loads(path.read_text(encoding="utf-8"))["evaluation"])
    results = [evaluation.get(part, {}).get(condition) for evaluation in evaluations]
    return max((result for result in results if result), key=lambda result: result["rows"], default=None)


def _figures(result: Mapping[str, Any]) -> Figures:
    test = result["non_inferiority"]
    difference = result["difference"]
    return {
        "rows": result["rows"],
        "change": 100 * difference["mean"],
        "interval_95": [100 * difference["low"], 100 * difference["high"]],
        "margin": 100 * test["margin"],
        "lower_limit": 100 * test["lower_limit"],
        "p_value": test["p_value"],
        "established": test["established"],
        "rows_needed": test["rows_needed"],
        "is_measurement": result["is_measurement"],
    }


def _cell(found: Figures) -> str:
    return f"{found['change']:+.2f} (> {found['lower_limit']:+.2f}){'' if found['established'] else ' *'}"


if __name__ == "__main__":
    main()
