"""Finds the run folders that a job has made, by what their ``config.json`` says.

    python scripts/find_runs.py OUTPUT_ROOT JOB --unit VARIANT SEED    # "finished FOLDER", "unfinished FOLDER", nothing
    python scripts/find_runs.py OUTPUT_ROOT JOB --units "VARIANT..." "SEED..."    # the finished folders, a line each

The second form names the units that have not finished on standard error and then ends with exit code 1. A run without a
checkpoint counts as none: it starts again. A ``config.json`` that is none is reported on standard error and passed
over. Needs the standard library alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def read_config(path: Path) -> dict[str, Any]:
    """What a ``config.json`` says; nothing where it is none, which is reported."""
    try:
        config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None  # a pipe would be waited for
    except (OSError, ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        print(f"passed over: {path}: expected the configuration of a run, got something else", file=sys.stderr)
        return {}
    return config


def find_unit(root: Path, job: str, variant: str, seed: int) -> tuple[str, Path] | None:
    """The newest run of a job with this variant and seed, finished ones first, and how it stands."""
    unfinished = None
    for path in sorted(root.glob("*/config.json"), reverse=True):
        config = read_config(path)
        unit = (config.get("label") or config.get("variant"), config.get("seed"))
        if config.get("job") != job or unit != (variant, seed):
            continue
        if (path.parent / "metrics.json").exists():
            return "finished", path.parent
        if unfinished is None and any(path.parent.glob("checkpoints/step-*")):
            unfinished = "unfinished", path.parent
    return unfinished


def main() -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("job")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--unit", nargs=2, metavar=("VARIANT", "SEED"))
    what.add_argument("--units", nargs=2, metavar=("VARIANTS", "SEEDS"))
    given = parser.parse_args()
    if given.unit:
        found = find_unit(given.root, given.job, given.unit[0], int(given.unit[1]))
        if found is not None:
            print(*found)
        return 0
    status = 0
    for seed in given.units[1].split():
        for variant in given.units[0].split():
            found = find_unit(given.root, given.job, variant, int(seed))
            if found is not None and found[0] == "finished":
                print(found[1])
            else:
                print(f"{variant}, seed {seed}: not finished in job {given.job}", file=sys.stderr)
                status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
