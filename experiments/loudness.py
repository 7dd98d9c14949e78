"""Does hearing survive loudness? `full_retention` with clips of drawn loudness, with clips at one level, both, neither.

    python -m experiments.loudness run --workers 2 --output-root runs/loudness
    python -m experiments.loudness table runs/loudness --json docs/results/loudness.json

``gains``: each training row's clip is 20 or 10 dB quieter, as it is, or 10 or 20 dB louder. ``level``: every clip is
brought to -20 dB below full scale before an audio encoder hears it, in training and afterwards.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.ablation import machine
from experiments.arms import CONDITIONS, REGIMES, Settings, folder_name, rate_settings
from experiments.records import FinishedRun
from experiments.runs import Job, make, require_finished
from experiments.tables import Figures, compare, differences_markdown, interval_cell, row
from experiments.tuning import read_rates
from safe_train.cli.errors import one_line_errors
from safe_train.cli.options import quiet_libraries
from safe_train.evaluation.fingerprint import versions
from safe_train.io.files import json_text, write_text

GAIN_CONDITIONS = ("gain_-20", "gain_-10", "gain_+10")
_GAINS = {"data.gains_db": "[-20, -10, 10, 20]"}
_LEVEL = {"model.audio_level_db": "-20"}
_COMMON = (
    REGIMES["plentiful"]
    | {"variant": "full_retention", "model.audio_level_db": "null"}
    | {"evaluation.conditions": json.dumps((*CONDITIONS, *GAIN_CONDITIONS))}
)
ARMS: dict[str, Settings] = {
    "neither": _COMMON,
    "gains": _COMMON | _GAINS,
    "level": _COMMON | _LEVEL,
    "gains and level": _COMMON | _GAINS | _LEVEL,
}
"""Settings by arm."""

PAIRS = [("gains", "neither"), ("level", "neither"), ("gains and level", "gains"), ("gains and level", "level")]


def jobs(seeds: Sequence[int], root: Path, rate: float | None) -> list[Job]:
    """A run for each arm and seed, in ``root/<arm>/<seed>``, at the default learning rate if none is given."""
    settings = rate_settings(rate) if rate is not None else {}
    return [
        Job(f"{name}, seed {seed}", arm | settings | {"seed": str(seed)}, root / folder_name(name) / str(seed))
        for seed in seeds
        for name, arm in ARMS.items()
    ]


def read_all(root: Path) -> dict[str, list[FinishedRun]]:
    """Finished runs by arm, seeds ascending."""
    found: dict[str, list[FinishedRun]] = defaultdict(list)
    for name in ARMS:
        for metrics in (root / folder_name(name)).glob("*/*/metrics.json"):
            found[name].append(FinishedRun.of(metrics.parent))
    return {name: sorted(runs, key=lambda run: run.metrics["seed"]) for name, runs in found.items()}


def markdown(rows: Mapping[str, Figures]) -> str:
    """Three Markdown tables: hearing in percent by loudness, and what is lost in points on VL rows and on text."""
    heard = ("gain_-20", "gain_-10", "matched", "gain_+10", "loud")
    attached = ("gain_-20", "gain_-10", "distractor", "gain_+10", "loud")
    names = ("-20 dB", "-10 dB", "as it is", "+10 dB", "+20 dB")
    blocks = []
    for title, part, conditions, sign in (
        ("Clips heard, in percent", "audio_by_condition", heard, ".1f"),
        ("Questions with an image under an unrelated clip, change in points", "vl_change", attached, "+.1f"),
        ("Text-only questions under an unrelated clip, change in points", "text_change", attached, "+.1f"),
    ):
        if not any(values[part] for values in rows.values()):
            continue
        lines = [f"| arm | seeds | {' | '.join(names)} |", "|" + "---|" * (len(names) + 2)]
        for name, values in rows.items():
            found = (values[part].get(condition) for condition in conditions)
            cells = ("" if cell is None else interval_cell(cell, sign) for cell in found)
            lines.append(f"| {name} | {len(values['seeds'])} | {' | '.join(cells)} |")
        blocks.append(f"{title}:\n\n" + "\n".join(lines))
    return "\n\n".join(blocks)


@one_line_errors
def main() -> None:
    """Runs or tabulates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train and evaluate every arm")
    run.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44, 45, 46])
    run.add_argument("--rates", type=Path, metavar="FILE", help="take full_retention's tuned learning rate from it")
    run.add_argument("--workers", type=int, default=1, metavar="N", help="runs at a time, a thread each [1]")
    run.add_argument("--output-root", type=Path, default=Path("runs/loudness"))
    table = commands.add_parser("table", help="print means over seeds")
    table.add_argument("root", type=Path)
    table.add_argument("--json", type=Path, help="also write the rows to this file")
    arguments = parser.parse_args()
    quiet_libraries()
    if arguments.command == "run":
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda received, _frame: sys.exit(128 + received))
        rate = read_rates(arguments.rates, "plentiful")["full_retention"] if arguments.rates else None
        make(jobs(arguments.seeds, arguments.output_root, rate), arguments.workers)
        return
    rows = {name: row(runs) for name, runs in read_all(arguments.root).items()}
    require_finished(rows, arguments.root)
    print(markdown(rows))
    loud = {
        name: {"seeds": values["seeds"], "loud": values["audio_by_condition"]["loud"]} for name, values in rows.items()
    }
    differences = compare(loud, PAIRS, "loud")
    if differences:
        print(f"\nLoud clips heard, in points, paired by seed:\n\n{differences_markdown(differences)}")
    if arguments.json is not None:
        content = {"machine": machine(), "versions": versions(), "arms": rows, "loud": [vars(d) for d in differences]}
        write_text(arguments.json, json_text(content))


if __name__ == "__main__":
    main()
