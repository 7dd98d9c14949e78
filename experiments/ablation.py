"""The ablation, on the embedded model and on real weights: variants and simple rivals over learning rates and seeds.

    python -m experiments.ablation tune --regime plentiful --workers 2 --json docs/results/tuning.json
    python -m experiments.ablation run --regime plentiful --rates docs/results/tuning.json --workers 2 \
        --output-root runs/ablation_tuned
    python -m experiments.ablation table runs/ablation_tuned --json docs/results/ablation_tuned.json
    python -m experiments.ablation front docs/results/tuning.json --output docs/results/front_plentiful.svg

``tune`` trains each arm over a grid of learning rates with seeds of its own and evaluates it on rows of its own, the
split ``tune``. The rule is the same for every arm: of the rates that hear within a point of the
arm's best, the one that loses least in its worst condition.

``run`` trains and evaluates arms with five seeds, each at its tuned rate, or without ``--rates`` all at the default
one; a run that has finished is not made again, and an interrupted one goes on. ``--extras`` adds mechanisms alone,
controls and other settings. ``table`` prints means over seeds and which arms differ. ``record`` keeps the figures of
finished runs apart from their folders, for an experiment of several days; see :mod:`experiments.records`. ``explore``
tries a regime on the rows for tuning. ``safe report runs/ablation_tuned/plentiful`` makes the page.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from types import FrameType
from typing import Any

from experiments import exploring, tuning
from experiments.arms import (
    CANDIDATES,
    CONDITIONS,
    DEFAULT_RATE,
    EARLY_STOPPED,
    EXTRA,
    MAIN,
    REGIMES,
    RIVALS,
    arms,
    at_rate,
    chosen_arms,
    default_rate,
    folder_name,
    is_tuned,
)
from experiments.front import draw_front
from experiments.records import FinishedRun, RunKey, add_records, not_recorded, read_records, record
from experiments.runs import Job, make, require_finished
from experiments.tables import Figures, compare, differences_markdown, markdown, row
from safe_train.cli.errors import one_line_errors
from safe_train.cli.options import quiet_libraries
from safe_train.errors import InputError
from safe_train.evaluation.fingerprint import versions
from safe_train.io.files import json_text, write_text

__all__ = ["CONDITIONS", "EXTRA", "MAIN", "REGIMES", "RIVALS", "arms", "markdown", "read_all", "row", "run_all"]

SEEDS = (42, 43, 44, 45, 46)

PAIRS: dict[str, list[tuple[str, str]]] = {
    "variants": list(combinations(reversed(MAIN), 2)),
    "against the rivals": [("full_retention", rival) for rival in RIVALS],
}
"""What is compared with what; Holm's correction is over the pairs of a family."""


def jobs(
    regime: str, seeds: Sequence[int], root: Path, named: Mapping[str, dict[str, str]], rates: Mapping[str, float]
) -> dict[RunKey, Job]:
    """A run for each arm and seed, in ``root/<regime>/<arm>/<seed>``.

    Raises:
        InputError: rates are given, and there is none for an arm.
    """
    return {
        RunKey(regime, name, seed): Job(
            f"{regime}, {name}, seed {seed}",
            at_rate(name, settings, rates) | {"seed": str(seed)},
            root / regime / folder_name(name) / str(seed),
            name in EARLY_STOPPED,
        )
        for seed in seeds
        for name, settings in named.items()
    }


def run_all(
    regime: str,
    seeds: Sequence[int],
    root: Path,
    only: Sequence[str] | None = None,
    *,
    rates: Mapping[str, float] | None = None,
    extras: bool = False,
    workers: int = 1,
    recorded: Path | None = None,
) -> None:
    """Trains arms with every seed, each in a process and a folder of its own.

    Args:
        regime: its name.
        seeds: a run of each arm for each.
        root: runs are kept in ``root/<regime>/<arm>/<seed>``.
        only: names of the arms; by default variants and rivals.
        rates: tuned learning rates by arm; by default the default rate for all.
        extras: whether mechanisms alone, controls and other settings are run too.
        workers: runs at a time.
        recorded: a file of records; what it has is not made.

    Raises:
        InputError: an arm is unknown or has no tuned rate, a run fails, or one with other settings is in its folder.
    """
    wanted = jobs(regime, seeds, root, chosen_arms(regime, only, extras=extras), rates or {})
    if recorded is not None:
        wanted = not_recorded(wanted, recorded)
    make(list(wanted.values()), workers)


def read_all(root: Path) -> dict[str, dict[str, list[FinishedRun]]]:
    """Finished runs by regime and arm, seeds ascending.

    Args:
        root: the folder of the runs, or a file of records.
    """
    found: dict[str, dict[str, list[FinishedRun]]] = {regime: {} for regime in REGIMES}
    if root.is_file():
        for one in read_records(root):
            found[one.regime].setdefault(one.arm, []).append(one.finished)
    else:
        for regime in REGIMES:
            for name in arms(regime):
                if runs := sorted((root / regime / folder_name(name)).glob("*/*/metrics.json")):
                    found[regime][name] = [FinishedRun.of(path.parent) for path in runs]
    return {
        regime: {
            name: sorted(by_arm[name], key=lambda run: run.metrics["seed"]) for name in arms(regime) if name in by_arm
        }
        for regime, by_arm in found.items()
    }


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    return {"platform": platform.platform(), "processors": os.cpu_count()}


def rates_words(rows: Mapping[str, Figures], regime: str) -> str:
    """Which learning rates the rows of a table were trained with, in words."""
    quarter = {name for name, settings in RIVALS.items() if not is_tuned(settings)}
    rates = [values["learning_rate"] for name, values in rows.items() if name not in quarter]
    if any(isinstance(rate, list) for rate in rates):
        return "learning rates that differ between the seeds of an arm"
    if None in rates:
        return "learning rates that are not known"
    if all(math.isclose(rate, default_rate(regime), rel_tol=1e-6) for rate in rates):
        return f"every arm at the default learning rate, {default_rate(regime):g}"
    return "each arm at its own learning rate"


@one_line_errors
def main() -> None:
    """Does what the command line says."""
    arguments = _parser().parse_args()
    quiet_libraries()
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    arguments.action(arguments)


def _run(arguments: argparse.Namespace) -> None:
    rates = tuning.read_rates(arguments.rates, arguments.regime) if arguments.rates else {}
    run_all(
        arguments.regime,
        arguments.seeds,
        arguments.output_root,
        arguments.arms,
        rates=rates,
        extras=arguments.extras,
        workers=arguments.workers,
        recorded=arguments.recorded,
    )


def _record(arguments: argparse.Namespace) -> None:
    rates = tuning.read_rates(arguments.rates, arguments.regime) if arguments.rates else {}
    seeds = sorted({int(path.name) for path in (arguments.root / arguments.regime).glob("*/*") if path.name.isdigit()})
    there = {
        name: settings
        for name, settings in arms(arguments.regime).items()
        if (arguments.root / arguments.regime / folder_name(name)).is_dir()
    }
    found = record(jobs(arguments.regime, seeds, arguments.root, there, rates))
    require_finished({"runs": found}, arguments.root)
    added = add_records(arguments.into, found)
    print(f"{added} of {len(found)} runs are new in {arguments.into}")


def _tune(arguments: argparse.Namespace) -> None:
    root = arguments.output_root
    tuning.tune(arguments.regime, arguments.arms, arguments.grid, arguments.seeds, root, arguments.workers)
    found = {regime: tuning.tuned(root, regime) for regime in REGIMES}
    found = {regime: by_arm for regime, by_arm in found.items() if by_arm}
    print(f"\n{arguments.regime}: audio / worst change\n\n{tuning.tuning_markdown(found[arguments.regime])}")
    content = {
        "machine": machine(),
        "versions": versions(),
        "rule": tuning.RULE,
        "units": "percent, points",
        "rows": {"split": tuning.TUNING_SPLIT, **asdict(tuning.TUNING_SIZES)},
        "regimes": found,
    }
    path = arguments.json or root / "rates.json"
    write_text(path, json_text(content))
    print(f"\nwritten: {path}")


def _explore(arguments: argparse.Namespace) -> None:
    changed = dict(assignment.split("=", 1) for assignment in arguments.assignments)
    if changed and arguments.name is None:
        hint = "name what is tried, so that its runs have a folder of their own"
        raise InputError("explore --set", "--name beside it", "none", hint)
    for regime in arguments.regimes:
        name = f"{arguments.name}_{regime}" if arguments.name else regime
        named = {arm: settings | changed for arm, settings in chosen_arms(regime, arguments.arms).items()}
        grid = arguments.grid
        print(f"\n{name}\n")
        print(exploring.explore(name, named, grid, arguments.seeds, arguments.output_root, arguments.workers))


def _table(arguments: argparse.Namespace) -> None:
    tables = {
        regime: {name: row(runs) for name, runs in by_arm.items()}
        for regime, by_arm in read_all(arguments.root).items()
    }
    require_finished(tables, arguments.root)
    differences: dict[str, dict[str, dict[str, Any]]] = {}
    for regime, rows in tables.items():
        if not rows:
            continue
        print(f"\n## {regime}: {rates_words(rows, regime)}\n\n{markdown(rows)}")
        differences[regime] = {}
        for family, pairs in PAIRS.items():
            for value, words in (("worst_by_seed", "worst change of each seed"), ("audio", "audio")):
                found = compare(rows, pairs, value)
                differences[regime][f"{family}, {words}"] = {"pairs": [asdict(difference) for difference in found]}
                if found and value == "worst_by_seed":
                    print(f"\n{family}, {words}, in points, paired by seed:\n\n{differences_markdown(found)}")
    if arguments.json is not None:
        content = {
            **_made_by(arguments.root),
            "conditions": CONDITIONS,
            "learning_rates": {regime: rates_words(rows, regime) for regime, rows in tables.items() if rows},
            "regimes": tables,
            "differences": differences,
        }
        write_text(arguments.json, json_text(content))


def _made_by(root: Path) -> dict[str, Any]:
    """Machine and versions of the runs; those of a folder are taken to be this machine's."""
    if not root.is_file():
        return {"machine": machine(), "versions": versions()}
    records = read_records(root)
    different = {json.dumps(one.versions, sort_keys=True) for one in records}
    return {
        "machine": {"processors": sorted({one.processor for one in records})},
        "versions": [json.loads(text) for text in sorted(different)],
    }


def _front(arguments: argparse.Namespace) -> None:
    by_arm = tuning.read_tuning(arguments.tuning, arguments.regime)
    draw_front(by_arm, arguments.regime, arguments.output)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", help="train every arm of a regime")
    run.set_defaults(action=_run)
    run.add_argument("--regime", choices=REGIMES, default="plentiful")
    run.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    run.add_argument("--arms", nargs="+", metavar="ARM", help="only these")
    run.add_argument("--extras", action="store_true", help="also mechanisms alone, controls and other settings")
    run.add_argument("--rates", type=Path, metavar="FILE", help="learning rates that tune has chosen")
    run.add_argument("--recorded", type=Path, metavar="FILE", help="runs that this file has are not made")
    run.add_argument("--output-root", type=Path, default=Path("runs/ablation"))

    kept = commands.add_parser("record", help="add the figures of finished runs to a file")
    kept.set_defaults(action=_record)
    kept.add_argument("root", type=Path, help="the --output-root of the runs")
    kept.add_argument("--regime", choices=REGIMES, default="plentiful")
    kept.add_argument("--rates", type=Path, metavar="FILE", help="learning rates that the runs were made with")
    kept.add_argument("--into", type=Path, required=True, metavar="FILE", help="a line a run; made if it is not there")

    tune = commands.add_parser("tune", help="choose each arm's learning rate on rows of its own")
    tune.set_defaults(action=_tune)
    tune.add_argument("--regime", choices=REGIMES, default="plentiful")
    tune.add_argument("--arms", nargs="+", metavar="ARM", help="only these")
    tune.add_argument("--grid", type=float, nargs="+", default=list(tuning.GRID), metavar="RATE")
    tune.add_argument("--seeds", type=int, nargs="+", default=list(tuning.SEEDS))
    tune.add_argument("--json", type=Path, help="where grid and choice go [OUTPUT_ROOT/rates.json]")
    tune.add_argument("--output-root", type=Path, default=Path("runs/tuning"))

    explore = commands.add_parser("explore", help="try a regime with a few arms on the rows for tuning")
    explore.set_defaults(action=_explore)
    explore.add_argument("--regimes", nargs="+", choices=[*REGIMES, *CANDIDATES], required=True, metavar="REGIME")
    explore.add_argument("--arms", nargs="+", default=list(exploring.ARMS), metavar="ARM")
    explore.add_argument("--grid", type=float, nargs="+", default=[DEFAULT_RATE], metavar="RATE")
    explore.add_argument("--seeds", type=int, nargs="+", default=[tuning.SEEDS[0]])
    explore.add_argument(
        "--set", dest="assignments", type=_assignment, action="append", default=[], metavar="KEY=VALUE"
    )
    explore.add_argument("--name", help="begins the name of the runs' folder")
    explore.add_argument("--output-root", type=Path, default=Path("runs/exploring"))

    for command in (run, tune, explore):
        command.add_argument("--workers", type=int, default=1, metavar="N", help="runs at a time, a thread each [1]")

    table = commands.add_parser("table", help="print means over seeds, and which arms differ")
    table.set_defaults(action=_table)
    table.add_argument("root", type=Path, help="the folder of the runs, or a file that record has written")
    table.add_argument("--json", type=Path, help="also write the rows to this file")

    front = commands.add_parser("front", help="draw audio against the worst loss over the grid")
    front.set_defaults(action=_front)
    front.add_argument("tuning", type=Path, help="the file that tune has written")
    front.add_argument("--regime", choices=REGIMES, default="plentiful")
    front.add_argument("--output", type=Path, required=True, help="an .svg or .png file")
    return parser


def _assignment(text: str) -> str:
    if "=" not in text:
        raise argparse.ArgumentTypeError(f"{text}: expected key=value")
    return text


def _leave(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)  # the runs are asked to write their checkpoints on the way out


if __name__ == "__main__":
    main()
