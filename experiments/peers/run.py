"""Chooses each arm's setting on validation rows of seeds of its own, then trains it on five others.

    python -m experiments.peers.run --kept 3 --output docs/results/peers.jsonl
    python -m experiments.peers.run --kept 20 --arms replay_only full_retention --output docs/results/peers.jsonl

A line a model: rows kept a skill, arm, setting, seed, part (``validation`` or ``test``) and the shares of rows right by
skill. What is in the file already is not trained again.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

from experiments.peers.arms import ARMS, Arm, Setting
from experiments.peers.skills import NEW, OLD, PROTECTED, Task, build_task, share_right
from safe_train.io.files import append_line
from safe_train.io.fingerprints import versions

CHOOSING_SEEDS, SEEDS = (100, 101), (0, 1, 2, 3, 4)

Line = dict[str, Any]


def read_lines(path: Path) -> list[Line]:
    """What a file of results holds."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def criterion(arm: Arm, right: Mapping[str, float]) -> float:
    """What a setting is chosen by: the mean of the new skill's and the protected skills' shares, or the new alone."""
    if arm.chooses_new_alone:
        return right[NEW]
    return (right[NEW] + float(np.mean([right[skill] for skill in PROTECTED]))) / 2


def chosen(arm: Arm, kept: int, lines: Iterable[Line]) -> Setting:
    """The arm's setting with the largest mean criterion over the choosing seeds; of several, the first."""
    which = (arm.name, kept, "validation")
    of_arm = [line for line in lines if (line["arm"], line["kept"], line["part"]) == which]
    means = [
        np.mean([criterion(arm, line["right"]) for line in of_arm if line["setting"] == dict(setting)])
        for setting in arm.settings
    ]
    return arm.settings[int(np.argmax(means))]


def measured(arm: Arm, settings: Sequence[Setting], task: Task, seed: int, part: str) -> Iterator[Line]:
    """Trains the arm by each of the settings, and measures what comes of it."""
    for setting in settings:
        start = time.perf_counter()
        models = list(arm.run(task, {name: setting[name] for name in _trained_by(arm, setting)}, seed))
        seconds = round(time.perf_counter() - start, 1)
        for found, model in models:
            if found in settings:
                right = {skill: share_right(model, task.held_out[part][skill]) for skill in (*OLD, NEW)}
                line = {"arm": arm.name, "setting": found, "seed": seed, "part": part, "right": right}
                yield line | {"seconds": seconds}
        if len(models) > 1:
            return  # one training has given them all


def _trained_by(arm: Arm, setting: Setting) -> list[str]:
    """Names of the settings that a training needs; the others say where it is cut, or how it is averaged."""
    shared = all(arm.settings[0].get("rate") == other.get("rate") for other in arm.settings)
    return ["rate"] if shared else list(setting)


def main() -> None:
    """Trains what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="file that lines are added to")
    parser.add_argument("--kept", type=int, default=3, help="rows of each protected skill that are kept")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="those that are reported")
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(1)
    done = read_lines(given.output)

    def missing(arm: Arm, seed: int, part: str) -> list[Setting]:
        settings = arm.settings if part == "validation" else [chosen(arm, given.kept, done)]
        here = [line for line in done if (line["kept"], line["seed"], line["part"]) == (given.kept, seed, part)]
        there = [line["setting"] for line in here if line["arm"] == arm.name]
        return [setting for setting in settings if dict(setting) not in there]

    for part, seeds in (("validation", CHOOSING_SEEDS), ("test", given.seeds)):
        for seed in seeds:
            task = None
            for arm in map(ARMS.__getitem__, given.arms):
                if not (settings := missing(arm, seed, part)):
                    continue
                task = task or build_task(seed, given.kept)
                for line in measured(arm, settings, task, seed, part):
                    found = {"kept": given.kept} | line
                    done.append(found)
                    append_line(given.output, json.dumps(found | {"versions": versions()}))
                shown = ", ".join(f"{name} {value:g}" for name, value in settings[0].items())
                what = f"{len(settings)} settings" if part == "validation" else shown
                print(f"{part}, seed {seed}, {arm.name}: {what}", flush=True)


if __name__ == "__main__":
    main()
